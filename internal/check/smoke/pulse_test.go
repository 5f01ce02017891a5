package smoke

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/orrery-dev/orrery/internal/check"
)

// fakePulse answers as all replicas of pulse at once.
type fakePulse struct {
	mu        sync.Mutex
	sent      map[string]map[uint64]bool // producer → numbers
	closed    []string
	notReady  string // what /readyz says instead of ok
	status    int    // of POST /v1/events
	result    string // status of each event
	grpc      string // gRPC status
	drop      uint64 // a number that is never delivered
	twice     bool   // deliveries count double
	otherLost uint64 // losses of somebody else
}

func (p *fakePulse) take(producer string, n uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent[producer] == nil {
		p.sent[producer] = map[uint64]bool{}
	}
	p.sent[producer][n] = true
}

func (p *fakePulse) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/readyz" && p.notReady != "":
		http.Error(w, p.notReady, http.StatusServiceUnavailable)
	case r.URL.Path == "/v1/events":
		var in struct {
			Events []struct {
				Producer string
				Sequence uint64
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		var results []map[string]string
		for _, e := range in.Events {
			p.take(e.Producer, e.Sequence)
			results = append(results, map[string]string{"id": fmt.Sprintf("%s.%d", e.Producer, e.Sequence), "status": p.result})
		}
		w.WriteHeader(p.status)
		json.NewEncoder(w).Encode(map[string]any{"results": results})
	case r.URL.Path == "/pulse.v1.Ingest/Send":
		p.serveGRPC(w, r)
	case r.Method == http.MethodDelete:
		p.closed = append(p.closed, r.URL.Query().Get("producer"))
	case r.URL.Path == "/v1/account":
		producer := r.URL.Query().Get("producer")
		p.mu.Lock()
		n := uint64(len(p.sent[producer]))
		p.mu.Unlock()
		a := pulseProducer{Producer: producer, Sent: n, Acknowledged: n, Delivered: n, Missing: []string{}}
		if p.drop > 0 {
			a.Delivered, a.Lost, a.Missing = n-1, 1, []string{fmt.Sprintf("%s.%d", producer, p.drop)}
		}
		if p.twice {
			a.Delivered *= 2
		}
		book := pulseAccount{Producers: []pulseProducer{a}}
		if producer == "" {
			book.Producers = append(book.Producers, pulseProducer{Producer: "other", Lost: p.otherLost, Missing: []string{"other.7"}})
			book.Totals.Lost = p.otherLost
		}
		json.NewEncoder(w).Encode(book)
	default:
		fmt.Fprintln(w, "ok")
	}
}

func (p *fakePulse) serveGRPC(w http.ResponseWriter, r *http.Request) {
	frame, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/grpc+proto")
	w.Header().Set("Trailer", "Grpc-Status")
	var answer []byte
	for events := frame[5:]; len(events) > 0; {
		_, _, tag := protowire.ConsumeTag(events)
		event, n := protowire.ConsumeBytes(events[tag:])
		events = events[tag+n:]
		_, _, tag = protowire.ConsumeTag(event)
		producer, n := protowire.ConsumeString(event[tag:])
		_, _, second := protowire.ConsumeTag(event[tag+n:])
		number, _ := protowire.ConsumeVarint(event[tag+n+second:])
		p.take(producer, number)
		var result []byte
		result = protowire.AppendString(protowire.AppendTag(result, 1, protowire.BytesType), fmt.Sprintf("%s.%d", producer, number))
		if p.result == "acknowledged" {
			result = protowire.AppendVarint(protowire.AppendTag(result, 2, protowire.VarintType), 1)
		}
		answer = protowire.AppendBytes(protowire.AppendTag(answer, 1, protowire.BytesType), result)
	}
	w.Write(grpcFrame(answer))
	w.Header().Set("Grpc-Status", p.grpc)
}

// TestPulse: each fault of pulse is found by one of its checks.
func TestPulse(t *testing.T) {
	for _, test := range []struct {
		name     string
		fault    func(*fakePulse, *fakeAPI)
		ready    check.State
		delivery check.State
		want     string
	}{
		{"all well", func(*fakePulse, *fakeAPI) {}, check.Succeeded, check.Succeeded, "200 events over HTTP and gRPC"},
		{"not ready", func(p *fakePulse, _ *fakeAPI) { p.notReady = "stream pulse has no leader" }, check.Running, check.Succeeded, "stream pulse has no leader"},
		{"a replica is missing", func(_ *fakePulse, f *fakeAPI) { delete(f.objects, key("Pod", "apps", "pulse-worker-1")) }, check.Running, check.Succeeded, "1 of 2 replicas of pulse worker"},
		{"nobody answers", func(_ *fakePulse, f *fakeAPI) { f.forwards = nil }, check.Running, check.Running, errTest.Error()},
		{"kept is not acknowledged", func(p *fakePulse, _ *fakeAPI) { p.status, p.result = http.StatusAccepted, "kept" }, check.Succeeded, check.Running, "status 202"},
		{"refused, says a result", func(p *fakePulse, _ *fakeAPI) { p.result = "refused" }, check.Succeeded, check.Running, "want smoke-"},
		{"gRPC fails", func(p *fakePulse, _ *fakeAPI) { p.grpc = "14" }, check.Succeeded, check.Running, `gRPC status "14"`},
		{"an event is lost", func(p *fakePulse, _ *fakeAPI) { p.drop = 42 }, check.Succeeded, check.Failed, ".42"},
		{"events count twice", func(p *fakePulse, _ *fakeAPI) { p.twice = true }, check.Succeeded, check.Failed, "counted twice"},
		{"somebody else lost events", func(p *fakePulse, _ *fakeAPI) { p.otherLost = 3 }, check.Succeeded, check.Failed, "other (3: other.7)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &fakePulse{sent: map[string]map[uint64]bool{}, status: http.StatusOK, result: "acknowledged", grpc: "0"}
			server := httptest.NewUnstartedServer(p)
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetHTTP1(true)
			server.Config.Protocols.SetUnencryptedHTTP2(true)
			server.Start()
			defer server.Close()
			f, env := newFake(t)
			f.forwards = map[string]string{}
			for _, role := range []string{"ingest", "worker"} {
				f.put(map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "pulse-" + role, "namespace": "apps"}, "spec": map[string]any{"replicas": int64(2)}})
				for i := range 2 {
					name := fmt.Sprintf("pulse-%s-%d", role, i)
					f.put(map[string]any{
						"apiVersion": "v1", "kind": "Pod",
						"metadata": map[string]any{"name": name, "namespace": "apps", "labels": map[string]any{"app.kubernetes.io/name": "pulse", "app.kubernetes.io/component": role}},
						"status":   map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "True"}}},
					})
					for _, port := range []int{pulsePort, pulseAdminPort} {
						f.forwards[fmt.Sprintf("%s:%d", name, port)] = strings.TrimPrefix(server.URL, "http://")
					}
				}
			}
			test.fault(p, f)
			ready, delivery := pulseReady(t.Context(), env), pulseDelivery(t.Context(), env)
			if ready.State != test.ready || delivery.State != test.delivery {
				t.Errorf("ready: %s (%s), want %s; delivery: %s (%s), want %s", ready.State, ready.Message, test.ready, delivery.State, delivery.Message, test.delivery)
			}
			if !strings.Contains(ready.Message+delivery.Message, test.want) {
				t.Errorf("neither %q nor %q says %q", ready.Message, delivery.Message, test.want)
			}
			if test.delivery == check.Succeeded && len(p.closed) != 1 {
				t.Errorf("closed accounts: %q, want that of the check", p.closed)
			}
		})
	}
}

func TestAcknowledgedResultsRefusesGarbage(t *testing.T) {
	for _, bad := range [][]byte{{0xff}, {0x0a, 5, 1}, {0x08, 1}, {0x0a, 2, 0x10, 0xff}} {
		if _, err := acknowledgedResults(bad); err == nil {
			t.Errorf("%x was read", bad)
		}
	}
}
