package selfcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/orrery-dev/orrery/apps/pulse/internal/ingest"
	"github.com/orrery-dev/orrery/apps/pulse/internal/ledger"
	"github.com/orrery-dev/orrery/apps/pulse/pulsepb"
)

// fakePulse answers as all replicas of pulse at once.
type fakePulse struct {
	mu        sync.Mutex
	sent      map[string]map[uint64]bool // producer → numbers
	closed    []string
	notReady  string // what /readyz says instead of ok
	recovers  int64  // after so many answers
	asked     atomic.Int64
	status    int    // of POST /v1/events
	result    string // status of each event
	grpc      error  // of gRPC
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
	case r.URL.Path == "/readyz" && p.notReady != "" && p.asked.Add(1) <= p.recovers:
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
	case r.Method == http.MethodDelete:
		p.closed = append(p.closed, r.URL.Query().Get("producer"))
	case r.URL.Path == "/v1/account":
		producer := r.URL.Query().Get("producer")
		p.mu.Lock()
		n := uint64(len(p.sent[producer]))
		p.mu.Unlock()
		a := ledger.Account{Producer: producer, Sent: n, Acknowledged: n, Delivered: n, Missing: []string{}}
		if p.drop > 0 {
			a.Delivered, a.Lost, a.Missing = n-1, 1, []string{fmt.Sprintf("%s.%d", producer, p.drop)}
		}
		if p.twice {
			a.Delivered *= 2
		}
		book := ledger.Book{Producers: []ledger.Account{a}}
		if producer == "" {
			book.Producers = append(book.Producers, ledger.Account{Producer: "other", Lost: p.otherLost, Missing: []string{"other.7"}})
			book.Totals.Lost = p.otherLost
		}
		json.NewEncoder(w).Encode(book)
	default:
		fmt.Fprintln(w, "ok")
	}
}

func (p *fakePulse) send(_ context.Context, r *connect.Request[pulsepb.SendRequest]) (*connect.Response[pulsepb.SendResponse], error) {
	answer := &pulsepb.SendResponse{}
	for _, e := range r.Msg.Events {
		p.take(e.Producer, e.Sequence)
		result := &pulsepb.Result{Id: fmt.Sprintf("%s.%d", e.Producer, e.Sequence), Status: pulsepb.Result_REFUSED}
		if p.result == "acknowledged" {
			result.Status = pulsepb.Result_ACKNOWLEDGED
		}
		answer.Results = append(answer.Results, result)
	}
	return connect.NewResponse(answer), p.grpc
}

// TestRun: each fault of pulse is found by one of its checks, and what passes is waited for.
func TestRun(t *testing.T) {
	for _, test := range []struct {
		name            string
		fault           func(*fakePulse, *Options)
		ready, delivery string
		want            string
	}{
		{"all well", func(*fakePulse, *Options) {}, "succeeded", "succeeded", "200 events over HTTP and gRPC"},
		{"ready a moment later", func(p *fakePulse, _ *Options) { p.notReady, p.recovers = "no leader", 3 }, "succeeded", "succeeded",
			"2 ingest and 2 worker"},
		{"not ready", func(p *fakePulse, _ *Options) { p.notReady, p.recovers = "stream pulse has no leader", 1<<40 }, "failed", "failed",
			"stream pulse has no leader"},
		{"a replica is missing", func(_ *fakePulse, o *Options) { o.Replicas = 3 }, "failed", "failed", "2 of 3 replicas are behind worker"},
		{"nobody answers", func(_ *fakePulse, o *Options) { o.Port, o.Admin = 1, 1 }, "failed", "failed", "connection refused"},
		{"kept is not acknowledged", func(p *fakePulse, _ *Options) { p.status, p.result = http.StatusAccepted, "kept" }, "succeeded",
			"failed", "status 202"},
		{"refused, says a result", func(p *fakePulse, _ *Options) { p.result = "refused" }, "succeeded", "failed", "want smoke-"},
		{"gRPC fails", func(p *fakePulse, _ *Options) { p.grpc = connect.NewError(connect.CodeUnavailable, errors.New("away")) }, "succeeded",
			"failed", "over gRPC: unavailable: away"},
		{"an event is lost", func(p *fakePulse, _ *Options) { p.drop = 42 }, "succeeded", "failed", ".42"},
		{"events count twice", func(p *fakePulse, _ *Options) { p.twice = true }, "succeeded", "failed", "counted twice"},
		{"somebody else lost events", func(p *fakePulse, _ *Options) { p.otherLost = 3 }, "succeeded", "failed", "other (3: other.7)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := &fakePulse{sent: map[string]map[uint64]bool{}, status: http.StatusOK, result: "acknowledged"}
			mux := http.NewServeMux()
			mux.Handle("/", p)
			mux.Handle("POST "+ingest.Procedure, connect.NewUnaryHandler(ingest.Procedure, p.send))
			server := httptest.NewUnstartedServer(mux)
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetHTTP1(true)
			server.Config.Protocols.SetUnencryptedHTTP2(true)
			server.Start()
			defer server.Close()
			port := server.Listener.Addr().(*net.TCPAddr).Port
			o := Options{Ingest: "ingest", Worker: "worker", Replicas: 2, Port: port, Admin: port, Deadline: 20 * time.Second}
			o.Lookup = func(_ context.Context, name string) ([]string, error) {
				if name != "ingest" && name != "worker" {
					return nil, errors.New("no such host")
				}
				if name == "ingest" {
					return slices.Repeat([]string{"127.0.0.1"}, o.Replicas), nil
				}
				return []string{"127.0.0.1", "127.0.0.1"}, nil
			}
			test.fault(p, &o)
			if test.ready == "failed" || test.delivery == "failed" {
				o.Deadline = 3 * time.Second // a starved machine takes its time to fail, too
			}
			var out strings.Builder
			err := Run(t.Context(), o, &out)
			if failed := errors.Is(err, ErrFailed); failed != (test.ready == "failed" || test.delivery == "failed") {
				t.Errorf("error %v", err)
			}
			states := map[string]string{}
			for text := range strings.Lines(out.String()) {
				var l line
				if err := json.Unmarshal([]byte(text), &l); err != nil {
					t.Fatalf("%q: %v", text, err)
				}
				states[l.Name] = l.State
			}
			if states["pulse-ready"] != test.ready || states["pulse-delivery"] != test.delivery || !strings.Contains(out.String(), test.want) {
				t.Errorf("want ready %s, delivery %s, %q:\n%s", test.ready, test.delivery, test.want, out.String())
			}
			if test.delivery == "succeeded" && len(p.closed) != 1 {
				t.Errorf("closed accounts: %q, want that of the check", p.closed)
			}
		})
	}
}
