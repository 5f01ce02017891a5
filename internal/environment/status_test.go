package environment

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

// In a cluster that somebody else made, a Service may wait for a load balancer that is there.
func TestPendingServicesAreOurs(t *testing.T) {
	seen := clusterState{services: []unstructured.Unstructured{{Object: map[string]any{
		"metadata": map[string]any{"namespace": "apps", "name": "hello"}, "spec": map[string]any{"type": "LoadBalancer"},
	}}}}
	for own, want := range map[bool]int{true: 1, false: 0} {
		e := &Environment{Kind: driver.Kind{Capabilities: driver.Capabilities{Nodes: own}}}
		if st := e.statusOf(t.Context(), driver.Observation{}, seen); len(st.Services) != want {
			t.Errorf("own %t: %+v", own, st.Services)
		}
	}
}

// A cluster that does not answer, or not to this person, is not shown as one without components.
func TestStatusOfAClusterThatDoesNotSay(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	p := s.open(Selection{})
	defer p.Close()
	warned := func(want string) {
		t.Helper()
		st, err := p.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(st.Warnings, "\n"); want == "" && all != "" || !strings.Contains(all, want) {
			t.Errorf("warnings %q, want %q", all, want)
		}
	}
	warned("")
	refuse := s.cluster.API.Inject(kubetest.Fault{Method: "GET", Path: "/configmaps", Status: http.StatusForbidden, Message: "not you"})
	warned("what the cluster would say is missing here: read the inventories: ")
	refuse()
	warned("")
	kubeconfig := filepath.Join(p.StateDir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	warned(kubeconfig)
}
