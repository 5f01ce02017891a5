package environment

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/driver"
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
