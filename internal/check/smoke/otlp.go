package smoke

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/observe"
)

// otlp: a metric that a service pushes to the gateway is read from Prometheus, with its
// value and its labels.
func otlp(ctx context.Context, env Env) check.Result {
	if r := lacks(env, "prometheus"); r != nil {
		return *r
	}
	prometheus := observe.NewPrometheus(env.Client)
	if r := answers(func() error { _, err := prometheus.Query(ctx, "vector(1)", time.Time{}); return err }); r != nil {
		return *r
	}
	run, want := token(8), float64(1+rand.IntN(1_000_000))
	sent := time.Now()
	if err := sendOTLP(ctx, env, "metrics", gauge("orrery_smoke_otlp", run, want)); err != nil {
		return check.Wait("%v", err)
	}
	err := until(ctx, arrival, func() error {
		series, err := prometheus.Query(ctx, fmt.Sprintf("orrery_smoke_otlp{run=%q}", run), time.Time{})
		switch {
		case errors.Is(err, observe.ErrQuery):
			return check.Final(err)
		case err != nil:
			return err
		case len(series) == 0:
			return errors.New("a metric that was pushed to the gateway is not in Prometheus")
		case len(series) > 1:
			return check.Final(fmt.Errorf("one metric was pushed and Prometheus has %d series of it", len(series)))
		}
		if p, _ := series[0].Last(); p.Value != want {
			return check.Final(fmt.Errorf("%v was pushed and Prometheus has %v", want, p.Value))
		}
		if job := series[0].Labels["job"]; job != "smoke" {
			return check.Final(fmt.Errorf("service smoke pushed the metric and Prometheus says job=%q", job))
		}
		return nil
	})
	if err != nil {
		return check.Fail(err)
	}
	return check.OK("a metric pushed through OTLP is in Prometheus after %.1f s", time.Since(sent).Seconds())
}

// gauge is a metric with one value, in OTLP's JSON form.
func gauge(name, run string, value float64) any {
	now := time.Now()
	return map[string]any{"resourceMetrics": []any{map[string]any{
		"resource": map[string]any{"attributes": []any{attribute("service.name", "smoke")}},
		"scopeMetrics": []any{map[string]any{
			"scope": map[string]any{"name": "orrery verify"},
			"metrics": []any{map[string]any{
				"name": name,
				"gauge": map[string]any{"dataPoints": []any{map[string]any{
					"timeUnixNano": nanos(now), "asDouble": value, "attributes": []any{attribute("run", run)},
				}}},
			}},
		}},
	}}}
}
