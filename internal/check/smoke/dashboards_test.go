package smoke

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/dashboard"
)

// answering is a cluster whose services answer by the text of the query.
type answering struct {
	API
	by map[string]string // query → body; "" in front of a body means status 400
}

func (a answering) RawGet(_ context.Context, path string) ([]byte, error) {
	u, err := url.Parse(path)
	if err != nil {
		return nil, err
	}
	q := u.Query()
	body, ok := a.by[q.Get("query")+strings.TrimSuffix(q.Get("q"), " with (most_recent=true)")]
	switch {
	case !ok:
		return []byte(`{"kind":"Status"}`), &apierrors.StatusError{ErrStatus: metav1.Status{Code: 503}}
	case strings.HasPrefix(body, "!"):
		return []byte(body[1:]), errors.Join(&apierrors.StatusError{ErrStatus: metav1.Status{Code: 400}})
	}
	return []byte(body), nil
}

func TestDashboards(t *testing.T) {
	const (
		vector = `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"1"]}]}}`
		none   = `{"status":"success","data":{"resultType":"vector","result":[]}}`
		nan    = `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"NaN"]}]}}`
		lines  = `{"status":"success","data":{"resultType":"streams","result":[{"stream":{},"values":[["1","x"]]}]}}`
		rates  = `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"1"]]}]}}`
		found  = `{"traces":[{"traceID":"1"}]}`
	)
	board := dashboard.Dashboard{Name: "d", Rows: []dashboard.Row{{Title: "r", Panels: []dashboard.Panel{
		{Title: "numbers", Kind: dashboard.Stat, Queries: []dashboard.Query{{Expr: "up"}}},
		{Title: "alerts", Kind: dashboard.Table, Queries: []dashboard.Query{{Expr: "ALERTS"}}, EmptyWhenHealthy: true},
		{Title: "lines", Kind: dashboard.Logs, Queries: []dashboard.Query{{Expr: "{}"}}},
		{Title: "rates", Kind: dashboard.TimeSeries, Queries: []dashboard.Query{{Expr: "rate({})", Source: dashboard.Loki}}},
		{Title: "traces", Kind: dashboard.Trace, Queries: []dashboard.Query{{Expr: "{ }"}}},
	}}}}
	well := map[string]string{"count(up offset 3m)": vector, "up": vector, "ALERTS": none, "{}": lines, "rate({})": rates, "{ }": found}
	for _, c := range []struct {
		name, query, answer string
		state               check.State
		says                string
	}{
		{"well", "up", vector, check.Succeeded, "5 queries of 1 dashboards have data, 1 of them"},
		{"empty", "up", none, check.Running, `dashboard d, row "r", panel "numbers" has no data: up`},
		{"no number", "up", nan, check.Running, `panel "numbers" has no data`},
		{"refused, even where empty is well", "ALERTS", `!{"error":"parse error"}`, check.Failed, `panel "alerts": Prometheus: query refused: parse error`},
		{"no lines", "{}", `{"status":"success","data":{"resultType":"streams","result":[]}}`, check.Running, `panel "lines" has no data`},
		{"no traces", "{ }", `{}`, check.Running, `panel "traces" has no data`},
	} {
		t.Run(c.name, func(t *testing.T) {
			by := map[string]string{}
			for k, v := range well {
				by[k] = v
			}
			by[c.query] = c.answer
			r := dashboards(t.Context(), Env{Client: answering{by: by}, Dashboards: []dashboard.Dashboard{board}})
			if r.State != c.state || !strings.Contains(r.Message, c.says) {
				t.Errorf("%s %q, want %s %q", r.State, r.Message, c.state, c.says)
			}
		})
	}
	// A rate has nothing after one scrape: good enough while Prometheus is new, and only then.
	rate := dashboard.Dashboard{Name: "d", Rows: []dashboard.Row{{Title: "r", Panels: []dashboard.Panel{
		{Title: "rate", Kind: dashboard.TimeSeries, Queries: []dashboard.Query{{Expr: "sum(rate(x[2m]))"}}},
	}}}}
	for history, want := range map[string]check.State{none: check.Succeeded, vector: check.Running} {
		by := map[string]string{"count(up offset 3m)": history, "sum(rate(x[2m]))": none, "sum(last_over_time(x[2m]))": vector}
		if r := dashboards(t.Context(), Env{Client: answering{by: by}, Dashboards: []dashboard.Dashboard{rate}}); r.State != want {
			t.Errorf("history %s: %s %q, want %s", history, r.State, r.Message, want)
		}
	}
	delete(well, "{ }")
	if r := dashboards(t.Context(), Env{Client: answering{by: well}, Dashboards: []dashboard.Dashboard{board}}); r.State != check.Running || !strings.Contains(r.Message, "Tempo is not there") {
		t.Errorf("without Tempo: %s %q", r.State, r.Message)
	}
	if r := dashboards(t.Context(), Env{}); r.State != check.Skipped {
		t.Errorf("without dashboards: %s", r.State)
	}
}
