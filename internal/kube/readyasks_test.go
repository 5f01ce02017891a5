package kube

import (
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

// While a rollout goes on, the pods of a namespace are not read at every look: only a workload that
// says that it is ready may be contradicted by them.
func TestReadyAsksForPodsOfWhatIsReady(t *testing.T) {
	s := kubetest.New(t)
	s.SetNodes([]kubetest.Node{{Name: "n1", Ready: true}})
	c, err := ConnectWith(s.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.Hold(kubetest.Ref{Kind: "Deployment", Name: "web"}, "it does not start")
	set := objects(t, "default", deploymentYAML)
	mustApply(t, c, "asks", set)
	lists := func() (n int) {
		for _, r := range s.Requests() {
			if r.Method == "GET" && strings.HasSuffix(r.Path, "/namespaces/default/pods") {
				n++
			}
		}
		return n
	}
	ready := c.Ready("asks", set)
	const looks = 20
	for range looks {
		if r := ready.Probe(t.Context()); r.State != check.Running {
			t.Fatalf("%s: %s", r.State, r.Message)
		}
	}
	t.Logf("%d lists of all pods of the namespace in %d looks at what is not ready", lists(), looks)
	if n := lists(); n > 0 {
		t.Errorf("asked for %d times in %d looks", n, looks)
	}
	s.Release(kubetest.Ref{Kind: "Deployment", Name: "web"})
	if r := check.Await(t.Context(), ready, nil); r.State != check.Succeeded {
		t.Fatalf("%s: %s", r.State, r.Message)
	}
	if lists() == 0 {
		t.Error("it is taken at its word")
	}
}
