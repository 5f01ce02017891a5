package smoke

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/observe"
)

const (
	monitoring      = "monitoring.coreos.com/v1"
	monitoringAlpha = "monitoring.coreos.com/v1alpha1"
	// otlpPath is where Prometheus takes metrics in OTLP, behind the API server's proxy.
	otlpPath = "/api/v1/namespaces/" + observe.Namespace + "/services/https:prometheus:9090/proxy/api/v1/otlp/v1/metrics"
)

// prometheusPush: what is pushed through OTLP is found by a query.
func prometheusPush(ctx context.Context, env Env) check.Result {
	const metric = "orrery_verify_push"
	run, value := token(4), float64(time.Now().UnixMilli()%100000)
	if err := push(ctx, env, metric, run, value); err != nil {
		return check.Wait("push a metric: %v", err)
	}
	began := time.Now()
	err := until(ctx, arrival, func() error {
		found, err := observe.NewPrometheus(env.Client).Query(ctx, fmt.Sprintf("%s{run=%q}", metric, run), time.Time{})
		if err != nil {
			return err
		}
		for _, s := range found {
			if p, ok := s.Last(); ok && p.Value == value {
				return nil
			}
		}
		return fmt.Errorf("%s of run %s was taken, and a query does not find it", metric, run)
	})
	if err != nil {
		return check.Fail(err)
	}
	return check.OK("a metric pushed through OTLP was found after %d ms", time.Since(began).Milliseconds())
}

// push sends a gauge with the label run to Prometheus, as OTLP in JSON
// (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).
func push(ctx context.Context, env Env, metric, run string, value float64) error {
	type m = map[string]any
	attribute := func(key, value string) []m {
		return []m{{"key": key, "value": m{"stringValue": value}}}
	}
	body, err := json.Marshal(m{"resourceMetrics": []m{{
		"resource": m{"attributes": attribute("service.name", "orrery-verify")},
		"scopeMetrics": []m{{"metrics": []m{{
			"name": metric,
			"gauge": m{"dataPoints": []m{{
				"asDouble": value, "timeUnixNano": strconv.FormatInt(time.Now().UnixNano(), 10), "attributes": attribute("run", run),
			}}},
		}}}},
	}}})
	if err != nil {
		return err
	}
	_, err = env.Client.RawPost(ctx, otlpPath, "application/json", body)
	return err
}

// prometheusRules: the rules of every PrometheusRule are loaded, and none fails.
func prometheusRules(ctx context.Context, env Env) check.Result {
	declared, err := env.Client.List(ctx, monitoring, "PrometheusRule", "", "")
	if err != nil {
		return check.Wait("list PrometheusRules: %v", err)
	}
	groups, err := observe.NewPrometheus(env.Client).Rules(ctx)
	if err != nil {
		return check.Wait("%v", err)
	}
	// The operator names a file NAMESPACE-NAME-UID.yaml.
	loaded := map[string]int{}
	rules := 0
	for _, g := range groups {
		for _, r := range g.Rules {
			if r.Health == "err" {
				return check.Wait("rule %s of group %s fails: %s", r.Name, g.Name, r.Error)
			}
			loaded[fileOf(g.File)+"/"+g.Name]++
			rules++
		}
	}
	var missing []string
	for _, d := range declared {
		groups, _, _ := unstructured.NestedSlice(d.Object, "spec", "groups")
		for _, g := range groups {
			group, _ := g.(map[string]any)
			name, _ := group["name"].(string)
			want, _ := group["rules"].([]any)
			file := fmt.Sprintf("%s-%s-%s", d.GetNamespace(), d.GetName(), d.GetUID())
			if have := loaded[file+"/"+name]; have != len(want) {
				missing = append(missing, fmt.Sprintf("%s/%s %s: %d of %d", d.GetNamespace(), d.GetName(), name, have, len(want)))
			}
		}
	}
	if missing != nil {
		return check.Wait("rules that are not loaded: %s", strings.Join(missing, "; "))
	}
	return check.OK("%d rules of %d PrometheusRules are loaded, and none fails", rules, len(declared))
}

// fileOf is the name of a file without folder and ending.
func fileOf(path string) string {
	return strings.TrimSuffix(path[strings.LastIndexByte(path, '/')+1:], ".yaml")
}

// prometheusTargets: everything that a monitor of any namespace selects is scraped, and the
// last scrape of each succeeded.
func prometheusTargets(ctx context.Context, env Env) check.Result {
	expected, err := expectedTargets(ctx, env)
	if err != nil {
		return check.Wait("what should be scraped: %v", err)
	}
	targets, err := observe.NewPrometheus(env.Client).Targets(ctx)
	if err != nil {
		return check.Wait("%v", err)
	}
	wrong := compareTargets(expected, targets)
	if wrong == nil {
		return check.OK("%d targets of %d monitors are up, as many as there should be", len(targets), len(expected))
	}
	more := ""
	if len(wrong) > 6 {
		more = fmt.Sprintf("; and %d more", len(wrong)-6)
		wrong = wrong[:6]
	}
	return check.Wait("%s%s", strings.Join(wrong, "; "), more)
}

// compareTargets names what is missing, down, or scraped though nobody asked for it.
func compareTargets(expected map[string]pool, targets []observe.Target) (wrong []string) {
	seen := map[string]map[string]bool{}
	for _, t := range targets {
		if seen[t.Pool] == nil {
			seen[t.Pool] = map[string]bool{}
		}
		p, known := expected[t.Pool]
		name := p.nameOf(t)
		seen[t.Pool][name] = true
		switch {
		case !known:
			wrong = append(wrong, fmt.Sprintf("%s is scraped at %s, and no monitor asks for it", t.Pool, t.URL))
		case t.Unknown:
			wrong = append(wrong, fmt.Sprintf("%s of %s was not scraped yet", name, t.Pool))
		case !t.Up:
			wrong = append(wrong, fmt.Sprintf("%s of %s is down: %s", name, t.Pool, t.Error))
		}
	}
	for name, p := range expected {
		for want := range p.targets {
			if !seen[name][want] {
				wrong = append(wrong, fmt.Sprintf("%s of %s is not scraped", want, name))
			}
		}
		if p.some && len(seen[name]) == 0 {
			wrong = append(wrong, name+" finds nothing to scrape")
		}
	}
	slices.Sort(wrong)
	return wrong
}

const alertMetric = "orrery_verify_alert"

// alerts: a rule fires on a metric that is pushed, Prometheus tells Alertmanager, and that
// a receiver in a pod, and pulse where it runs; when the metric is taken back, the alert ends.
func alerts(ctx context.Context, env Env) check.Result {
	return inSandbox(ctx, env, "alerts", func(s *sandbox) (string, error) {
		receiver, err := s.pod(ctx, pod{part: "receiver", command: []string{"serve"}})
		if err != nil {
			return "", err
		}
		if _, err := s.started(ctx, receiver); err != nil {
			return "", err
		}
		// However this ends, the alert is not left firing.
		defer func() {
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
			defer cancel()
			_ = push(last, env, alertMetric, s.id, 0)
		}()
		// The first sign of life of a pod is before its address is known everywhere; Alertmanager
		// tries again.
		if err := until(ctx, settle, func() error { return push(ctx, env, alertMetric, s.id, 1) }); err != nil {
			return "", fmt.Errorf("push the metric: %w", err)
		}
		began := time.Now()
		again := s.keepFiring()
		err = until(ctx, arrival, func() error {
			if err := again(ctx); err != nil {
				return err
			}
			return s.alerted(ctx, receiver, "firing")
		})
		if err != nil {
			return "", fmt.Errorf("%w%s", err, alertTrouble(ctx, env, s.id))
		}
		took := time.Since(began)
		pulse, err := s.pulseAlerted(ctx, receiver)
		if err != nil {
			return "", err
		}
		if err := until(ctx, settle, func() error { return push(ctx, env, alertMetric, s.id, 0) }); err != nil {
			return "", fmt.Errorf("take the metric back: %w", err)
		}
		err = until(ctx, arrival, func() error { return s.alerted(ctx, receiver, "resolved") })
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("a rule fired, and a pod was told %.1f s after the metric, and of its end; %s", took.Seconds(), pulse), nil
	})
}

// keepFiring returns what pushes the metric again once in five seconds. The rule looks half a
// minute back, and Alertmanager may be away for longer than that.
func (s *sandbox) keepFiring() func(context.Context) error {
	next := time.Now().Add(5 * time.Second)
	return func(ctx context.Context) error {
		if time.Now().Before(next) {
			return nil
		}
		next = time.Now().Add(5 * time.Second)
		return push(ctx, s.env, alertMetric, s.id, 1)
	}
}

// pulseAlerted waits until pulse was told of this run's alert, when it runs and has a route.
// Its route may be so new that Alertmanager does not have it yet, so the alert is kept alive.
// It is asked by the pod that was told itself: pulse lets no node in, and so not the API servers'
// proxy.
func (s *sandbox) pulseAlerted(ctx context.Context, from string) (string, error) {
	url := fmt.Sprintf("http://pulse-ingest.%s.svc.%s.:8080/alerts?name=OrreryVerify&status=firing", namespace, s.env.ClusterDomain)
	if _, err := s.env.Client.Get(ctx, monitoringAlpha, "AlertmanagerConfig", observe.Namespace, "pulse"); err != nil {
		return "pulse has no route", nil //nolint:nilerr // an environment without pulse
	}
	d, err := s.env.Client.Get(ctx, "apps/v1", "Deployment", namespace, "pulse-ingest")
	if ready, _, _ := nestedInt(d, "status", "readyReplicas"); err != nil || ready == 0 {
		return "pulse does not run yet", nil //nolint:nilerr // its own check says what is wrong
	}
	again := s.keepFiring()
	err = until(ctx, arrival, func() error {
		if err := again(ctx); err != nil {
			return err
		}
		raw, err := s.exec(ctx, from, "get", url)
		if err != nil {
			return fmt.Errorf("ask pulse: %w", err)
		}
		var told struct {
			Alerts []struct{ Labels map[string]string }
		}
		if err := json.Unmarshal([]byte(raw), &told); err != nil {
			return fmt.Errorf("ask pulse: %w", err)
		}
		for _, a := range told.Alerts {
			if a.Labels["run"] == s.id {
				return nil
			}
		}
		return fmt.Errorf("pulse was not told of the alert of run %s: does AlertmanagerConfig observability/pulse have its route?", s.id)
	})
	return "so was pulse", err
}

// nestedInt reads a number of an object that may be nil.
func nestedInt(o *unstructured.Unstructured, path ...string) (int64, bool, error) {
	if o == nil {
		return 0, false, nil
	}
	return unstructured.NestedInt64(o.Object, path...)
}

// alerted looks for this run's alert, in the given state, among what the receiver was told.
func (s *sandbox) alerted(ctx context.Context, receiver, state string) error {
	told, err := s.exec(ctx, receiver, "get", "http://127.0.0.1:8080/alerts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(told) {
		var message struct {
			Alerts []struct {
				Status string
				Labels map[string]string
			}
		}
		if err := json.Unmarshal([]byte(line), &message); err != nil {
			return check.Final(fmt.Errorf("the receiver was told something that is no alert: %q", line))
		}
		for _, a := range message.Alerts {
			if a.Labels["alertname"] == "OrreryVerify" && a.Labels["run"] == s.id && a.Status == state {
				return nil
			}
		}
	}
	return fmt.Errorf("the receiver was not told of the alert of run %s (%s)", s.id, state)
}

// alertTrouble says how far an alert came.
func alertTrouble(ctx context.Context, env Env, run string) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	isOurs := func(l observe.Labels) bool { return l["alertname"] == "OrreryVerify" && l["run"] == run }
	firing, err := observe.NewPrometheus(env.Client).Alerts(ctx)
	if err != nil {
		return fmt.Sprintf("; Prometheus was asked too: %v", err)
	}
	if !slices.ContainsFunc(firing, func(a observe.Alert) bool { return isOurs(a.Labels) }) {
		return "; no rule fired in Prometheus: is PrometheusRule observability/verify loaded?"
	}
	notices, err := observe.NewAlertmanager(env.Client).Alerts(ctx)
	if err != nil {
		return fmt.Sprintf("; it fires in Prometheus; Alertmanager was asked too: %v", err)
	}
	if !slices.ContainsFunc(notices, func(n observe.Notice) bool { return isOurs(n.Labels) }) {
		return "; it fires in Prometheus and did not reach Alertmanager"
	}
	return "; Alertmanager has it and did not reach the receiver (Service apps/alert-receiver)"
}
