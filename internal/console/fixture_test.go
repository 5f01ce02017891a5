package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/orrery-dev/orrery/internal/dashboard"
)

const token = "a-token-for-tests-0123456789"

// world is an environment that a test can change while a console shows it.
type world struct {
	snapshot atomic.Pointer[Snapshot]
	away     atomic.Bool // nothing answers
	slow     atomic.Int64
	verify   func(ctx context.Context, report func(Check)) error
	earlier  []Check
	boards   []dashboard.Dashboard
	flows    FollowFlows
	gitops   GitOps
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{}
	s := healthy()
	w.snapshot.Store(&s)
	board, err := dashboard.Parse([]byte(exampleBoard), "example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	w.boards = []dashboard.Dashboard{board}
	return w
}

// serve starts a console on a port of its own.
func (w *world) serve(t testing.TB) (*Console, *httptest.Server) {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	ctx, cancel := context.WithCancel(context.Background())
	c, err := New(ctx, Options{
		Environment: "local", Token: token, Address: server.Listener.Addr().String(), Interval: 50 * time.Millisecond,
		API: w, Dashboards: w.boards, Verify: w.verify, Earlier: func() []Check { return w.earlier }, Flows: w.flows,
		GitOps: func(context.Context) (GitOps, error) { return w.gitops, nil },
		Look: func(context.Context) (Snapshot, error) {
			if w.away.Load() {
				return Snapshot{}, errors.New("dial tcp 127.0.0.1:6443: connect: connection refused")
			}
			return *w.snapshot.Load(), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = c
	server.Start()
	server.URL = base(c)
	t.Cleanup(func() {
		cancel()
		server.CloseClientConnections()
		server.Close()
		c.Close()
	})
	ready, done := context.WithTimeout(ctx, 5*time.Second)
	defer done()
	c.Ready(ready)
	return c, server
}

// base is the console's address without the token.
func base(c *Console) string { return "http://" + c.host }

func healthy() Snapshot {
	pods := func(n int, names ...string) (out []Pod) {
		for i := range n {
			namespace, name, _ := strings.Cut(names[i%len(names)], "/")
			out = append(out, Pod{Namespace: namespace, Name: fmt.Sprintf("%s-%d", name, i), Health: Good})
		}
		return out
	}
	usage := func(cpu, memory float64) (Usage, Usage) {
		return Usage{true, cpu, fmt.Sprintf("%.0f mcore", 1000*cpu*4)}, Usage{true, memory, fmt.Sprintf("%.1f GiB", 4*memory)}
	}
	s := Snapshot{Environment: "local", Phase: "running", Note: "durability full"}
	for i, n := range []struct {
		name, role, zone string
		pods             int
	}{{"server1", "server", "a", 13}, {"server2", "server", "b", 11}, {"server3", "server", "c", 12}, {"agent1", "agent", "a", 17}, {"agent2", "agent", "b", 9}} {
		node := Node{Name: n.name, Role: n.role, Zone: n.zone, Address: fmt.Sprintf("10.89.0.%d", 11+i), Health: Good, State: "ready",
			Pods: pods(n.pods, "kube-system/coredns", "messaging/nats", "observability/loki", "observability-agents/otel-agent", "apps/pulse-ingest")}
		node.CPU, node.Memory = usage(0.05+0.03*float64(i), 0.2+0.05*float64(i))
		s.Nodes = append(s.Nodes, node)
	}
	s.Nodes[1].Pods[3].Health, s.Nodes[1].Pods[3].Reason = Starting, "ContainerCreating"
	s.Nodes[3].Pods[5].Health = Done
	for _, name := range []string{"coredns", "kube-state-metrics", "local-path", "loki", "metrics-server", "namespaces", "nats", "otel-collector", "prometheus", "pulse", "tempo"} {
		s.Components = append(s.Components, Component{Name: name, Namespace: "observability", Health: Good})
	}
	s.Endpoints = []Endpoint{{Name: "api", Address: "https://127.0.0.1:16443"}, {Name: "registry", Address: "127.0.0.1:15000"}, {Name: "prometheus", Address: "orrery open prometheus", Command: true}}
	return s
}

// RawGet is an API server's service proxy with a Prometheus, a Loki and a Tempo behind it.
func (w *world) RawGet(ctx context.Context, path string) ([]byte, error) {
	if d := w.slow.Load(); d > 0 {
		select {
		case <-time.After(time.Duration(d)):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if w.away.Load() {
		return nil, errors.New("connection refused")
	}
	u, err := url.Parse(path)
	if err != nil {
		return nil, err
	}
	q := u.Query()
	_, rest, _ := strings.Cut(u.Path, "/proxy")
	switch {
	case strings.Contains(q.Get("query"), "broken"):
		return []byte(`{"error":"parse error at char 1"}`), &apierrors.StatusError{ErrStatus: metav1.Status{Code: 400}}
	case strings.Contains(q.Get("query"), "ALERTS"):
		return []byte(`{"status":"success","data":{"resultType":"vector","result":[]}}`), nil
	case rest == "/api/v1/query":
		return w.numbers("vector", q, time.Now(), time.Now(), time.Second), nil
	case rest == "/api/v1/query_range", rest == "/loki/api/v1/query_range" && !strings.HasPrefix(q.Get("query"), "{"):
		start, end, step := seconds(q.Get("start")), seconds(q.Get("end")), time.Duration(float64(time.Second)*atof(q.Get("step")))
		return w.numbers("matrix", q, start, end, step), nil
	case rest == "/api/v1/query_exemplars":
		at := float64(time.Now().Add(-7*time.Minute).UnixMilli()) / 1000
		return fmt.Appendf(nil, `{"status":"success","data":[{"seriesLabels":{},"exemplars":[{"labels":{"trace_id":"%s"},"value":"0.9","timestamp":%f}]}]}`, traceName, at), nil
	case strings.HasSuffix(rest, "/values"):
		return []byte(`{"status":"success","data":["kube-system","messaging"]}`), nil
	case rest == "/loki/api/v1/query_range":
		return lokiLines(), nil
	case rest == "/api/search":
		return fmt.Appendf(nil, `{"traces":[{"traceID":"%s","rootServiceName":"pulse-ingest","rootTraceName":"POST /v1/beats","startTimeUnixNano":"%d","durationMs":32},{"traceID":"%s","rootServiceName":"pulse-ingest","rootTraceName":"POST /v1/beats","startTimeUnixNano":"%d","durationMs":12}]}`, traceName, time.Now().UnixNano(), strings.Repeat("c", 32), time.Now().UnixNano()), nil
	case rest == "/api/traces/"+traceName:
		return otlpTrace(), nil
	case strings.HasPrefix(rest, "/api/traces/"):
		return []byte("trace not found"), &apierrors.StatusError{ErrStatus: metav1.Status{Code: 404}}
	}
	return []byte(`{"kind":"Status","code":404}`), &apierrors.StatusError{ErrStatus: metav1.Status{Code: 404}}
}

var traceName = strings.Repeat("ab", 16)

func atof(s string) float64 {
	v, _ := strconv.ParseFloat(s, 64)
	return v
}

func seconds(s string) time.Time { return time.UnixMilli(int64(1000 * atof(s))) }

// numbers are three smooth series.
func (w *world) numbers(kind string, q url.Values, start, end time.Time, step time.Duration) []byte {
	type series struct {
		Metric map[string]string `json:"metric"`
		Value  []any             `json:"value,omitempty"`
		Values [][]any           `json:"values,omitempty"`
	}
	var out []series
	for i, node := range []string{"server1", "server2", "agent1"} {
		s := series{Metric: map[string]string{"node": node, "namespace": []string{"messaging", "kube-system", "observability"}[i], "job": "job-" + node, "pod": "pod-" + node}}
		for at := start; !at.After(end); at = at.Add(max(step, time.Second)) {
			phase := float64(at.Unix()) / 300
			v := strconv.FormatFloat(0.4+0.25*math.Sin(phase+float64(i))+0.1*float64(i), 'f', 4, 64)
			point := []any{float64(at.UnixMilli()) / 1000, v}
			if kind == "vector" {
				s.Value = point
				break
			}
			s.Values = append(s.Values, point)
		}
		out = append(out, s)
		if strings.Contains(q.Get("query"), "one(") {
			break
		}
	}
	data, _ := json.Marshal(map[string]any{"status": "success", "data": map[string]any{"resultType": kind, "result": out}})
	return data
}

func lokiLines() []byte {
	now := time.Now()
	var values [][]string
	for i, text := range []string{
		`{"time":"x","level":"INFO","msg":"beat acknowledged","stream":"BEATS","sequence":4711,"trace_id":"` + traceName + `"}`,
		`{"level":"ERROR","msg":"publish failed, will try again","error":"nats: timeout"}`,
		`[1] 2026/11/22 10:00:00.000000 [WRN] JetStream is slow`,
		`I1122 10:00:00.123456       1 reconciler.go:42] "Synced" <b>not markup</b>`,
	} {
		values = append(values, []string{strconv.FormatInt(now.Add(-time.Duration(i)*time.Second).UnixNano(), 10), text})
	}
	data, _ := json.Marshal(map[string]any{"status": "success", "data": map[string]any{"resultType": "streams", "result": []any{
		map[string]any{"stream": map[string]string{"k8s_namespace_name": "apps", "k8s_pod_name": "pulse-ingest-5d9c"}, "values": values},
	}}})
	return data
}

func otlpTrace() []byte {
	start := time.Now().Add(-time.Minute)
	span := func(id, parent, name string, kind int, from, to int, failed bool) map[string]any {
		s := map[string]any{"traceId": traceName, "spanId": id, "parentSpanId": parent, "name": name, "kind": kind,
			"startTimeUnixNano": strconv.FormatInt(start.Add(time.Duration(from)*time.Millisecond).UnixNano(), 10),
			"endTimeUnixNano":   strconv.FormatInt(start.Add(time.Duration(to)*time.Millisecond).UnixNano(), 10),
			"attributes":        []any{map[string]any{"key": "messaging.system", "value": map[string]any{"stringValue": "nats"}}}}
		if failed {
			s["status"] = map[string]any{"code": 2, "message": "store was full"}
		}
		return s
	}
	resource := func(service string, spans ...any) map[string]any {
		return map[string]any{"resource": map[string]any{"attributes": []any{map[string]any{"key": "service.name", "value": map[string]any{"stringValue": service}}}}, "scopeSpans": []any{map[string]any{"spans": spans}}}
	}
	data, _ := json.Marshal(map[string]any{"batches": []any{
		resource("pulse-ingest", span("0000000000000001", "", "POST /v1/beats", 2, 0, 18, false), span("0000000000000002", "0000000000000001", "publish beats", 4, 3, 14, false)),
		resource("pulse-worker", span("0000000000000003", "0000000000000002", "consume beats", 5, 15, 40, false), span("0000000000000004", "0000000000000003", "store", 3, 18, 36, true)),
	}})
	return data
}

const exampleBoard = `apiVersion: orrery.dev/v1alpha1
kind: Dashboard
name: example
title: Example
description: All kinds of panels
variables:
  - {name: namespace, title: Namespace, label: namespace, match: kube_pod_info}
rows:
  - title: Numbers
    panels:
      - {title: Ready, kind: stat, unit: ratio, thresholds: [{from: 0, state: critical}, {from: 0.1, state: ok}], queries: [{expr: one(ready)}]}
      - {title: By node, kind: stat, unit: cores, queries: [{expr: cores, legend: "{{node}}"}]}
      - {title: Alerts, kind: stat, emptyWhenHealthy: true, empty: No alert fires, queries: [{expr: ALERTS}]}
      - {title: Refused, kind: stat, queries: [{expr: broken}]}
  - title: Over time
    panels:
      - {title: Latency, description: 'How long requests took, with exemplars', kind: timeseries, unit: seconds, thresholds: [{from: 0.8, state: warning}], queries: [{expr: 'latency{namespace=~"$namespace"}', legend: "{{node}}", exemplars: true}]}
      - {title: Memory, kind: timeseries, unit: bytes, stack: true, queries: [{expr: memory, legend: "{{node}}"}]}
      - {title: One, kind: timeseries, unit: 1/s, queries: [{expr: one(rate), legend: rate}]}
      - {title: Bars, kind: bar, unit: cores, queries: [{expr: bars, legend: "{{node}}"}]}
  - title: Lists
    panels:
      - {title: Pods, kind: table, labels: [namespace, pod], queries: [{expr: a, legend: CPU, unit: cores}, {expr: b, legend: Memory, unit: ratio}]}
      - {title: Lines, kind: logs, queries: [{expr: '{service_name=~".+"}'}]}
      - {title: Traces, kind: trace, queries: [{expr: "{}"}]}
      - {title: Where, kind: topology, queries: [{expr: up}]}
`
