package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/orrery-dev/orrery/apps/pulse/internal/ingest"
	"github.com/orrery-dev/orrery/apps/pulse/internal/natstest"
	"github.com/orrery-dev/orrery/apps/pulse/pulsepb"
)

func TestGRPC(t *testing.T) {
	server := natstest.Start(t)
	in, out := start(t, server, "ingest", nil), start(t, server, "worker", nil)
	in.ready()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	client := connect.NewClient[pulsepb.SendRequest, pulsepb.SendResponse](&http.Client{Transport: transport}, in.listen+ingest.Procedure, connect.WithGRPC())
	answer, err := client.CallUnary(t.Context(), connect.NewRequest(&pulsepb.SendRequest{Events: []*pulsepb.Event{
		{Producer: "rpc", Sequence: 1, Data: []byte{0, 1, 2}}, {Producer: "rpc", Sequence: 2},
	}}))
	if err != nil {
		t.Fatal(err)
	}
	if r := answer.Msg.Results; len(r) != 2 || r[1].Id != "rpc.2" || r[1].Status != pulsepb.Result_ACKNOWLEDGED {
		t.Errorf("results %v", r)
	}
	out.settled("rpc", 2)
	_, err = client.CallUnary(t.Context(), connect.NewRequest(&pulsepb.SendRequest{Events: []*pulsepb.Event{{Producer: "a.b", Sequence: 1}}}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a bad producer: %v, want InvalidArgument", err)
	}
}

func TestBadRequests(t *testing.T) {
	server := natstest.Start(t)
	in := start(t, server, "ingest", nil)
	in.ready()
	many := strings.Repeat(`{"data":1},`, ingest.MaxEvents) + `{"data":1}`
	for body, want := range map[string]string{
		``:                          "the request is not",
		`{"events":[]}`:             "send 1 to 1000",
		`{"events":[` + many + `]}`: "send 1 to 1000",
		`{"event":[]}`:              "unknown field",
		`{"events":[{"producer":"a.b","sequence":1}]}`:                "event 0: producer",
		`{"events":[{"producer":"a"}]}`:                               "from 1",
		`{"events":[{"sequence":1}]}`:                                 "both or neither",
		`{"events":[{"data":1}]} {}`:                                  "goes on after",
		`{"events":[{"data":"` + strings.Repeat("x", 70_000) + `"}]}`: "at most",
		`{"events":[{"producer":"a","sequence":-1}]}`:                 "the request is not",
		`{"events":[{"data":"` + strings.Repeat("x", 5<<20) + `"}]}`:  "send fewer events at a time",
	} {
		status, a := in.postBody(body)
		if status/100 != 4 || !strings.Contains(a.Error, want) {
			t.Errorf("%.80s: %d %q, want 4xx and %q", body, status, a.Error, want)
		}
	}
	if status, body := get(t, in.listen+"/v1/account?producer=nobody"); status != http.StatusNotFound || !strings.Contains(body, "nothing is known") {
		t.Errorf("account of nobody: %d %s", status, body)
	}
}

// gateway takes traces over OTLP.
func gateway(t *testing.T) (string, <-chan *tracepb.TracesData) {
	t.Helper()
	const procedure = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
	got := make(chan *tracepb.TracesData, 1000)
	mux := http.NewServeMux()
	mux.Handle(procedure, connect.NewUnaryHandler(procedure, func(_ context.Context, r *connect.Request[tracepb.TracesData]) (*connect.Response[emptypb.Empty], error) {
		got <- r.Msg
		return connect.NewResponse(&emptypb.Empty{}), nil
	}))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: mux, Protocols: protocols}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return "http://" + l.Addr().String(), got
}

// TestOneTraceFromEndToEnd: HTTP, NATS and worker are one trace, the worker's log line
// names it, and so do the exemplars.
func TestOneTraceFromEndToEnd(t *testing.T) {
	server := natstest.Start(t)
	endpoint, got := gateway(t)
	with := func(c *config) { c.otlp = endpoint }
	in, out := start(t, server, "ingest", with), start(t, server, "worker", with)
	in.ready()
	out.ready()
	const trace = "0af7651916cd43dd8448eb211c80319c"
	request, _ := http.NewRequest(http.MethodPost, in.listen+"/v1/events", strings.NewReader(`{"events":[{"producer":"traced","sequence":1}]}`))
	request.Header.Set("traceparent", "00-"+trace+"-b7ad6b7169203331-01")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	out.settled("traced", 1)
	names := map[string]string{} // span → parent
	ids := map[string]string{}
	for deadline := time.After(20 * time.Second); len(names) < 5; {
		select {
		case data := <-got:
			for _, r := range data.ResourceSpans {
				for _, s := range r.ScopeSpans {
					for _, span := range s.Spans {
						if hex(span.TraceId) == trace {
							names[span.Name], ids[hex(span.SpanId)] = hex(span.ParentSpanId), span.Name
						}
					}
				}
			}
		case <-deadline:
			t.Fatalf("spans of the trace: %v", names)
		}
	}
	for span, parent := range map[string]string{
		"POST /v1/events": "", "send pulse": "POST /v1/events", "record in the ledger": "POST /v1/events",
		"process pulse": "send pulse", "put": "process pulse",
	} {
		if p, ok := names[span]; !ok || ids[p] != parent {
			t.Errorf("span %q: there %v, parent %q, want %q; all: %v", span, ok, ids[p], parent, names)
		}
	}
	if !strings.Contains(out.log.String(), `"id":"traced.1","duplicate":false,"trace_id":"`+trace+`"`) {
		t.Errorf("the worker's log does not name the trace:\n%s", out.log)
	}
	for p, series := range map[*process]string{out: "pulse_latency_seconds_bucket", in: "http_server_request_duration_seconds_bucket"} {
		request, _ := http.NewRequest(http.MethodGet, p.admin+"/metrics", nil)
		request.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if lines := grep(string(body), series); !strings.Contains(lines, trace) {
			t.Errorf("no exemplar of the trace:\n%s", lines)
		}
	}
	_, metrics := get(t, in.admin+"/metrics")
	if !strings.Contains(metrics, `http_route="/v1/events"`) && !strings.Contains(metrics, `http_route="POST /v1/events"`) {
		t.Errorf("no route:\n%s", grep(metrics, "http_server_request_duration_seconds_count"))
	}
	for _, name := range []string{"pulse_sent_total", "pulse_acknowledged_total", `pulse_spans_total{outcome="exported"}`, `pulse_spans_total{outcome="dropped"} 0`, "pulse_outbox", "pulse_publish_seconds_bucket"} {
		if grep(metrics, name) == "" {
			t.Errorf("no metric %s", name)
		}
	}
}

func hex(b []byte) string {
	const digits = "0123456789abcdef"
	var out []byte
	for _, x := range b {
		out = append(out, digits[x>>4], digits[x&15])
	}
	return string(out)
}

// TestWithoutAGateway: traces that nobody takes neither fail nor delay anything, and are
// counted.
func TestWithoutAGateway(t *testing.T) {
	server := natstest.Start(t)
	in := start(t, server, "ingest", func(c *config) { c.otlp = "http://127.0.0.1:1" })
	out := start(t, server, "worker", func(c *config) { c.otlp = "http://127.0.0.1:1" })
	in.ready()
	if status, a := in.post("alone", 1, 50); status != http.StatusOK {
		t.Errorf("%d %+v", status, a)
	}
	out.settled("alone", 50)
	eventually(t, func() error {
		_, metrics := get(t, in.admin+"/metrics")
		if line := grep(metrics, `pulse_spans_total{outcome="failed"}`); line == "" || strings.HasSuffix(line, " 0\n") {
			return io.ErrNoProgress
		}
		return nil
	})
}

// TestAlerts: what one replica is sent, the other shows too.
func TestAlerts(t *testing.T) {
	server := natstest.Start(t)
	a, b := start(t, server, "ingest", nil), start(t, server, "ingest", nil)
	a.ready()
	b.ready()
	post := func(body string) int {
		response, err := http.Post(a.listen+"/alerts", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	body := `{"version":"4","receiver":"pulse","alerts":[{"status":"firing","labels":{"alertname":"Smoke","severity":"none"},"startsAt":"2026-01-02T03:04:05Z","fingerprint":"f00"}]}`
	if status := post(body); status != http.StatusOK {
		t.Errorf("a webhook: %d", status)
	}
	for _, bad := range []string{`x`, `{}`, `{"version":"4"}`, `{"version":"4","alerts":[{"status":"firing"}]}`} {
		if status := post(bad); status != http.StatusBadRequest {
			t.Errorf("%s: %d, want 400", bad, status)
		}
	}
	for _, p := range []*process{a, b} {
		eventually(t, func() error {
			if _, body := get(t, p.listen+"/alerts?name=Smoke"); !strings.Contains(body, `"fingerprint":"f00"`) || strings.Count(body, "f00") != 1 {
				return io.ErrUnexpectedEOF
			}
			return nil
		})
		if _, body := get(t, p.listen+"/alerts?status=resolved"); strings.Contains(body, "f00") {
			t.Errorf("a firing alert among the resolved: %s", body)
		}
	}
}

func TestBeat(t *testing.T) {
	server := natstest.Start(t)
	in := start(t, server, "ingest", nil)
	beating := start(t, server, "ingest", func(c *config) { c.beatRate, c.beatTarget = 200, in.listen })
	out := start(t, server, "worker", nil)
	in.ready()
	out.ready()
	eventually(t, func() error {
		if _, metrics := get(t, out.admin+"/metrics"); !strings.Contains(metrics, "pulse_delivered_total") || strings.Contains(metrics, "pulse_delivered_total 0") {
			return io.ErrNoProgress
		}
		return nil
	})
	if err := beating.stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if _, body := get(t, in.listen+"/v1/account"); !strings.Contains(body, `"producer":"beat-`) || !strings.Contains(body, `"lost":0`) || !strings.Contains(body, `"pending":0`) {
			return errorf(body)
		}
		return nil
	})
}

type errorf string

func (e errorf) Error() string { return string(e) }

func TestFlags(t *testing.T) {
	for _, args := range [][]string{nil, {"dance"}, {"ingest", "x"}, {"ingest", "-replicas=2"}, {"worker", "-beat-rate=1"}, {"ingest", "-beat-rate=-1"}, {"worker", "-sample=2"}, {"worker", "-deadline=1ms"}, {"worker", "-nope"}, {"check", "-replicas=0"}, {"check", "x"}} {
		var out strings.Builder
		if err := run(t.Context(), args, io.Discard, &out); err != errUsage || out.Len() == 0 {
			t.Errorf("%q: %v, %q; want usage and why", args, err, out.String())
		}
	}
	for _, args := range [][]string{
		{"worker", "-nats-creds=/nowhere"}, {"worker", "-otlp=gateway:4317"}, {"ingest", "-outbox=/proc/nowhere"}, {"worker", "-listen=nowhere:x"},
	} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q: started", args)
		}
	}
}
