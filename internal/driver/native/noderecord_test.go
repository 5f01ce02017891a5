package native

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

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

// A Node object that somebody deleted is made anew by the kubelet, and is complete without 'up'.
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
	all := strings.Join(f.patches, "\n")
	for _, want := range []string{`"topology.kubernetes.io/zone":"` + c.Nodes[3].Zone + `"`, `"podCIDR":"` + c.Nodes[3].PodCIDR.String() + `"`} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in %s", want, all)
		}
	}
}
