package observe

import (
	"context"
	"errors"
	"math"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// fake is an API server's service proxy: the path after /proxy → status and body.
type fake struct {
	t     *testing.T
	paths map[string]reply
	asked []url.Values
}

type reply struct {
	code int
	body string
}

func (f *fake) RawGet(ctx context.Context, path string) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	u, err := url.Parse(path)
	if err != nil {
		f.t.Fatal(err)
	}
	f.asked = append(f.asked, u.Query())
	head, rest, _ := strings.Cut(u.Path, "/proxy")
	r, ok := f.paths[rest]
	if !ok {
		status := apierrors.NewNotFound(schema.GroupResource{Resource: "services"}, head).ErrStatus
		return []byte(`{"kind":"Status","code":404,"message":"services not found"}`), &apierrors.StatusError{ErrStatus: status}
	}
	if r.code/100 != 2 {
		e := &apierrors.StatusError{ErrStatus: metav1.Status{Code: int32(r.code), Message: r.body}}
		return []byte(r.body), errors.Join(errors.New("GET "+path), e)
	}
	return []byte(r.body), nil
}

func serve(t *testing.T, path string, code int, body string) *fake {
	return &fake{t: t, paths: map[string]reply{path: {code, body}}}
}

var t0 = time.UnixMilli(1764000000123).UTC()

func TestQuery(t *testing.T) {
	f := serve(t, "/api/v1/query", 200, `{"status":"success","data":{"resultType":"vector","result":[
		{"metric":{"__name__":"up","job":"etcd"},"value":[1764000000.123,"1"]},
		{"metric":{"job":"h"},"histogram":[1764000000.123,{"count":"1"}]},
		{"metric":{"job":"x"},"value":[1764000000.123,"+Inf"]}]}}`)
	got, err := NewPrometheus(f).Query(t.Context(), `up{job="etcd"}`, t0)
	if err != nil {
		t.Fatal(err)
	}
	want := []Series{
		{Labels{"__name__": "up", "job": "etcd"}, []Point{{t0, 1}}},
		{Labels{"job": "x"}, []Point{{t0, math.Inf(1)}}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if q := f.asked[0]; q.Get("query") != `up{job="etcd"}` || q.Get("time") != "1764000000.123" {
		t.Errorf("asked %v", q)
	}
	if s := want[0].Labels.String(); s != `up{job="etcd"}` {
		t.Errorf("labels are %s", s)
	}
}

func TestQueryRange(t *testing.T) {
	f := serve(t, "/api/v1/query_range", 200, `{"status":"success","data":{"resultType":"matrix","result":[
		{"metric":{"a":"b"},"values":[[1764000000.123,"1"],[1764000015.123,"NaN"]]}, {"metric":{},"values":[]}]}}`)
	p := NewPrometheus(f)
	got, err := p.QueryRange(t.Context(), "x", Range{Start: t0, End: t0.Add(time.Hour)})
	if err != nil || len(got) != 1 || len(got[0].Points) != 2 || !math.IsNaN(got[0].Points[1].Value) {
		t.Fatalf("%v, %v", got, err)
	}
	if step := f.asked[0].Get("step"); step != "36.000" {
		t.Errorf("step %s", step)
	}
	if _, err := p.QueryRange(t.Context(), "x", Range{Start: t0, End: t0}); !errors.Is(err, ErrQuery) {
		t.Errorf("an empty range: %v", err)
	}
	f.paths["/api/v1/query_range"] = reply{200, `{"status":"success","data":{"resultType":"scalar","result":[1764000000.123,"2"]}}`}
	if got, err := p.QueryRange(t.Context(), "2", Last(time.Minute)); err != nil || got[0].Points[0].Value != 2 {
		t.Errorf("scalar: %v, %v", got, err)
	}
}

// What is wrong must be told apart: a person does something else in each case.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		code int
		body string
		is   error
		says string
	}{
		{"syntax", 400, `{"status":"error","errorType":"bad_data","error":"1:3: parse error: unexpected end"}`, ErrQuery, "Prometheus: query refused: 1:3: parse error"},
		{"no pod", 503, `{"kind":"Status","message":"no endpoints available for service \"prometheus\""}`, ErrAbsent, "no endpoints available"},
		{"pod does not answer", 502, `{"kind":"Status","message":"error trying to reach service: dial tcp"}`, ErrAbsent, "error trying to reach service"},
		{"not found by the service itself", 404, `page not found`, ErrNotFound, "Prometheus: not found"},
		{"broken inside", 500, `boom`, nil, "Prometheus answers with status 500: boom"},
		{"forbidden by the API server", 403, `{"kind":"Status","message":"forbidden"}`, nil, "forbidden"},
		{"not JSON", 200, `<html>`, nil, "is not what was expected"},
		{"an error with status 200", 200, `{"status":"error","error":"no"}`, ErrQuery, "no"},
		{"a wrong type", 200, `{"status":"success","data":{"resultType":"streams","result":[]}}`, nil, "instead of numbers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := NewPrometheus(serve(t, "/api/v1/query", c.code, c.body)).Query(t.Context(), "x", time.Time{})
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v, want %q", err, c.says)
			}
			for _, kind := range []error{ErrAbsent, ErrNotFound, ErrQuery} {
				if errors.Is(err, kind) != errors.Is(c.is, kind) {
					t.Errorf("%v is %v: %v", err, kind, errors.Is(err, kind))
				}
			}
		})
	}
	t.Run("no service", func(t *testing.T) {
		_, err := NewLoki(serve(t, "/other", 200, "")).Labels(t.Context(), Last(time.Hour))
		if !errors.Is(err, ErrAbsent) || !strings.Contains(err.Error(), "there is no service loki in namespace observability") {
			t.Error(err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := NewTempo(serve(t, "", 200, "")).Trace(ctx, "1"); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestTargetsRulesAlertsExemplars(t *testing.T) {
	f := &fake{t: t, paths: map[string]reply{
		"/api/v1/targets": {200, `{"status":"success","data":{"activeTargets":[
			{"labels":{"job":"b"},"scrapePool":"p2","scrapeUrl":"http://b","health":"down","lastError":"refused","lastScrape":"2026-11-22T10:00:00.5Z"},
			{"labels":{"job":"a"},"scrapePool":"p1","scrapeUrl":"http://a","health":"up","lastError":""},
			{"labels":{"job":"c"},"scrapePool":"p3","scrapeUrl":"http://c","health":"unknown"}]}}`},
		"/api/v1/rules": {200, `{"status":"success","data":{"groups":[{"name":"g","file":"f","rules":[
			{"name":"Down","type":"alerting","state":"firing","health":"ok","query":"up == 0","labels":{"severity":"critical"},
			 "annotations":{"summary":"s"},"alerts":[{"labels":{"alertname":"Down"},"state":"firing","activeAt":"2026-11-22T10:00:00Z","value":"1e+00"}]}]}]}}`},
		"/api/v1/alerts": {200, `{"status":"success","data":{"alerts":[{"labels":{"alertname":"Down"},"state":"pending","activeAt":"2026-11-22T10:00:00Z","value":"1"}]}}`},
		"/api/v1/query_exemplars": {200, `{"status":"success","data":[{"seriesLabels":{"__name__":"h_bucket"},"exemplars":[
			{"labels":{"trace_id":"abc"},"value":"0.25","timestamp":1764000000.123}]}]}`},
		"/api/v1/label/job/values": {200, `{"status":"success","data":["a","b"]}`},
		"/api/v2/alerts":           {200, `[{"labels":{"alertname":"Down"},"fingerprint":"f","status":{"state":"active"},"receivers":[{"name":"pulse"}],"startsAt":"2026-11-22T10:00:00Z"}]`},
	}}
	p := NewPrometheus(f)
	targets, err := p.Targets(t.Context())
	if err != nil || len(targets) != 3 || !targets[0].Up || targets[1].Up || targets[1].Error != "refused" || !targets[2].Unknown {
		t.Errorf("targets %+v, %v", targets, err)
	}
	rules, err := p.Rules(t.Context())
	if err != nil || rules[0].Rules[0].State != "firing" || rules[0].Rules[0].Alerts[0].Name() != "Down" {
		t.Errorf("rules %+v, %v", rules, err)
	}
	alerts, err := p.Alerts(t.Context())
	if err != nil || alerts[0].Name() != "Down" || alerts[0].State != "pending" {
		t.Errorf("alerts %+v, %v", alerts, err)
	}
	ex, err := p.Exemplars(t.Context(), "h_bucket", Last(time.Hour))
	if err != nil || ex[0].TraceID() != "abc" || ex[0].Value != 0.25 || !ex[0].Time.Equal(t0) {
		t.Errorf("exemplars %+v, %v", ex, err)
	}
	if v, err := p.LabelValues(t.Context(), "job", "up"); err != nil || len(v) != 2 {
		t.Errorf("values %v, %v", v, err)
	}
	notices, err := NewAlertmanager(f).Alerts(t.Context())
	if err != nil || notices[0].Status.State != "active" || notices[0].Receivers[0].Name != "pulse" {
		t.Errorf("notices %+v, %v", notices, err)
	}
}

func TestLoki(t *testing.T) {
	f := serve(t, "/loki/api/v1/query_range", 200, `{"status":"success","data":{"resultType":"streams","result":[
		{"stream":{"pod":"a","trace_id":"t1"},"values":[["1764000000000000002","two"],["1764000000000000001","one"]]},
		{"stream":{"pod":"b"},"values":[["1764000000000000003","three",{"structuredMetadata":{"trace_id":"t2"}}]]}]}}`)
	l := NewLoki(f)
	for order, want := range map[Order]string{NewestFirst: "three two one", OldestFirst: "one two three"} {
		lines, err := l.Query(t.Context(), `{pod=~".+"}`, Last(time.Hour), 10, order)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, line := range lines {
			got = append(got, line.Text)
			if line.Text == "three" && line.TraceID() != "t2" || line.Text == "one" && line.TraceID() != "t1" {
				t.Errorf("%s: trace %q", line.Text, line.TraceID())
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %s", order, s)
		}
	}
	f.paths["/loki/api/v1/query_range"] = reply{200, `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1764000000,"3"]]}]}}`}
	if _, err := l.Query(t.Context(), "rate(x)", Last(time.Hour), 1, NewestFirst); !errors.Is(err, ErrQuery) {
		t.Errorf("numbers instead of lines: %v", err)
	}
	if s, err := l.QueryRange(t.Context(), "rate(x)", Last(time.Hour)); err != nil || s[0].Points[0].Value != 3 {
		t.Errorf("numbers: %v, %v", s, err)
	}
	f.paths["/loki/api/v1/query_range"] = reply{400, "parse error at line 1, col 2: syntax error"}
	if _, err := l.Query(t.Context(), "{", Last(time.Hour), 1, NewestFirst); !errors.Is(err, ErrQuery) || !strings.Contains(err.Error(), "col 2") {
		t.Errorf("syntax: %v", err)
	}
	if IsNumeric(` {a="b"} |= "x"`) || !IsNumeric(`sum(rate({a="b"}[1m]))`) {
		t.Error("IsNumeric")
	}
}

const otlpTrace = `{"batches":[
 {"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"worker"}}]},
  "scopeSpans":[{"spans":[
   {"traceId":"AAAAAAAAAAAAAAAAAAAAAQ==","spanId":"AAAAAAAAAAM=","parentSpanId":"AAAAAAAAAAE=","name":"consume","kind":"SPAN_KIND_CONSUMER",
    "startTimeUnixNano":"1764000000020000000","endTimeUnixNano":"1764000000030000000","status":{"code":"STATUS_CODE_ERROR","message":"late"},
    "attributes":[{"key":"n","value":{"intValue":"7"}},{"key":"ok","value":{"boolValue":true}}],
    "events":[{"timeUnixNano":"1764000000025000000","name":"exception"}],
    "links":[{"traceId":"AAAAAAAAAAAAAAAAAAAAAg==","spanId":"AAAAAAAAAAk="}]}]}]},
 {"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"ingest"}}]},
  "scopeSpans":[{"spans":[
   {"traceId":"00000000000000000000000000000001","spanId":"0000000000000002","parentSpanId":"0000000000000001","name":"publish","kind":4,"startTimeUnixNano":1764000000010000000,"endTimeUnixNano":1764000000012000000},
   {"traceId":"00000000000000000000000000000001","spanId":"0000000000000001","parentSpanId":"","name":"POST /","kind":2,"startTimeUnixNano":"1764000000000000000","endTimeUnixNano":"1764000000015000000"}]}]}]}`

func TestTrace(t *testing.T) {
	id := strings.Repeat("0", 31) + "1"
	for name, body := range map[string]string{"v1": otlpTrace, "v2": `{"trace":` + strings.Replace(otlpTrace, "batches", "resourceSpans", 1) + `}`} {
		t.Run(name, func(t *testing.T) {
			trace, err := NewTempo(serve(t, "/api/traces/"+id, 200, body)).Trace(t.Context(), "1")
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range trace.Spans {
				got = append(got, strings.Repeat(".", s.Depth)+s.Service+"/"+s.Name+"/"+s.Kind)
			}
			if d := cmp.Diff([]string{"ingest/POST //server", ".ingest/publish/producer", ".worker/consume/consumer"}, got); d != "" {
				t.Error(d)
			}
			last := trace.Spans[2]
			if !last.Failed || last.Message != "late" || last.Attributes["n"] != "7" || last.Attributes["ok"] != "true" || last.Duration != 10*time.Millisecond ||
				last.Events[0].Name != "exception" || last.Links[0].SpanID != "0000000000000009" {
				t.Errorf("%+v", last)
			}
			if trace.ID != id || trace.Duration() != 30*time.Millisecond {
				t.Errorf("%s, %s", trace.ID, trace.Duration())
			}
		})
	}
	if _, err := NewTempo(serve(t, "/api/traces/"+id, 404, "trace not found")).Trace(t.Context(), id); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown trace: %v", err)
	}
	if _, err := NewTempo(serve(t, "/api/traces/"+id, 200, `{}`)).Trace(t.Context(), id); !errors.Is(err, ErrNotFound) {
		t.Errorf("empty trace: %v", err)
	}
	for _, bad := range []string{"", "x", "../..", "0", strings.Repeat("a", 33)} {
		if _, err := NewTempo(serve(t, "", 200, "")).Trace(t.Context(), bad); !errors.Is(err, ErrQuery) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestSearch(t *testing.T) {
	f := serve(t, "/api/search", 200, `{"traces":[
		{"traceID":"1","rootServiceName":"a","rootTraceName":"old","startTimeUnixNano":"1764000000000000000","durationMs":12},
		{"traceID":"2","rootServiceName":"a","rootTraceName":"new","startTimeUnixNano":"1764000001000000000"}]}`)
	found, err := NewTempo(f).Search(t.Context(), `{}`, Last(time.Hour), 5)
	if err != nil || len(found) != 2 || found[0].Name != "new" || found[1].Duration != 12*time.Millisecond || len(found[0].ID) != 32 {
		t.Errorf("%+v, %v", found, err)
	}
	if q := f.asked[0].Get("q"); q != "{} with (most_recent=true)" {
		t.Errorf("asked %s: Tempo would give any, not the newest", q)
	}
}

func TestWaterfallOfNonsense(t *testing.T) {
	spans := waterfall([]Span{{ID: "a", Parent: "b"}, {ID: "b", Parent: "a"}, {ID: "c", Parent: "gone"}, {ID: "c"}, {ID: "d", Parent: "d"}})
	if len(spans) != 4 {
		t.Errorf("%+v", spans)
	}
}

// The clients are given answers of servers that anything may sit in front of.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(otlpTrace))
	f.Add([]byte(`{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1,"1"]}]}}`))
	f.Add([]byte(`{"status":"success","data":{"resultType":"streams","result":[{"stream":{},"values":[["1","x",{"parsed":{"a":"b"}}]]}]}}`))
	f.Add([]byte(`{"traces":[{"traceID":"1","startTimeUnixNano":5}]}`))
	f.Add([]byte(`{"trace":{"trace":{}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		any := fakeAll(body)
		p, l, tempo := NewPrometheus(any), NewLoki(any), NewTempo(any)
		r := Range{Start: t0, End: t0.Add(time.Hour)}
		for _, call := range []func() error{
			func() error { _, err := p.Query(t.Context(), "x", t0); return err },
			func() error { _, err := p.Targets(t.Context()); return err },
			func() error { _, err := p.Rules(t.Context()); return err },
			func() error { _, err := p.Exemplars(t.Context(), "x", r); return err },
			func() error { _, err := l.Query(t.Context(), "{}", r, 1, OldestFirst); return err },
			func() error { _, err := tempo.Search(t.Context(), "{}", r, 1); return err },
		} {
			_ = call()
		}
		trace, err := tempo.Trace(t.Context(), "1")
		if err != nil {
			return
		}
		seen := map[string]int{}
		for _, s := range trace.Spans {
			if s.ID != "" {
				seen[s.ID]++
			}
			if s.Duration < 0 || seen[s.ID] > 1 {
				t.Errorf("span %+v", s)
			}
		}
	})
}

type fakeAll []byte

func (f fakeAll) RawGet(context.Context, string) ([]byte, error) { return f, nil }
