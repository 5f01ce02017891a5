package native

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/proc"
	"github.com/orrery-dev/orrery/internal/spec"
)

// fakeNodes is an API server that has, after a while, the object that a kubelet makes.
type fakeNodes struct {
	mu      sync.Mutex
	asked   int
	patches []string
}

func (f *fakeNodes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if r.Method == http.MethodPatch {
		body, _ := io.ReadAll(r.Body)
		f.patches = append(f.patches, string(body))
		return
	}
	if f.asked < 2 {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	_, _ = w.Write([]byte(`{"metadata":{"name":"agent1"}}`))
}

// A kubelet registers when it starts: one whose Node object somebody deleted is started anew, and only then.
func TestDeletedNodeIsRegistered(t *testing.T) {
	c := testClusterOf(t, spec.PluginCilium)
	for name, test := range map[string]struct {
		status     int // of the Node object, until the kubelet is started anew
		registered bool
		ends       bool
	}{
		"deleted":         {http.StatusNotFound, true, true},
		"there":           {http.StatusOK, true, false},
		"not to be asked": {http.StatusServiceUnavailable, true, false},
		"yet to register": {http.StatusNotFound, false, false}, // on a slow machine that takes minutes
	} {
		t.Run(name, func(t *testing.T) {
			kubelet := exec.Command("sleep", "60")
			if err := kubelet.Start(); err != nil {
				t.Fatal(err)
			}
			id, err := proc.Of(kubelet.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { _ = kubelet.Wait(); close(ended) }()
			t.Cleanup(func() { _ = kubelet.Process.Kill(); <-ended })
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if id.Alive() {
					w.WriteHeader(test.status)
					return
				}
				_ = json.NewEncoder(w).Encode(map[string]any{"metadata": map[string]any{"name": "agent1", "labels": c.Nodes[3].labels()},
					"spec": map[string]any{"podCIDR": c.Nodes[3].PodCIDR.String()}})
			}))
			defer s.Close()
			m := &machine{node: c.Nodes[3], cluster: c, log: slog.New(slog.DiscardHandler), process: kubelet.Process,
				registered: test.registered, services: map[string]initEvent{"kubelet": {State: "running"}}}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			m.registerWith(ctx, &api{base: s.URL, http: s.Client()}, func() int { return kubelet.Process.Pid })
			if ctx.Err() != nil {
				t.Error("it went on after the object was complete")
			}
			if id.Alive() == test.ends {
				t.Errorf("the kubelet runs: %v", id.Alive())
			}
		})
	}
}

// A Node object that the kubelet made anew is complete without 'up'.
func TestNodeObjectIsCompleted(t *testing.T) {
	f := &fakeNodes{}
	s := httptest.NewServer(f)
	defer s.Close()
	c := testClusterOf(t, spec.PluginCilium)
	m := &machine{node: c.Nodes[3], cluster: c, log: slog.New(slog.DiscardHandler)}
	began := time.Now()
	m.completeWith(t.Context(), &api{base: s.URL, http: s.Client()})
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if !m.registered {
		t.Error("nobody remembers that it registered")
	}
	all := strings.Join(f.patches, "\n")
	for _, want := range []string{`"topology.kubernetes.io/zone":"` + c.Nodes[3].Zone + `"`, `"podCIDR":"` + c.Nodes[3].PodCIDR.String() + `"`} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in %s", want, all)
		}
	}
}
