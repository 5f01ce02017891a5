package e2e

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// TestExistingCluster: a cluster that one environment made, and another takes as somebody
// else's. Its nodes reach no registry of the test, so that what is deployed runs no pod.
func TestExistingCluster(t *testing.T) {
	cluster := newEnvironment(t, "host", "servers: 1\nagents: 1\nnetwork: {plugin: ptp}\n")
	cluster.run(t, "cluster", "create")
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)

	wanted := "driver: existing\nexisting:\n  kubeconfig: " + cluster.state("kubeconfig") + "\n  context: orrery-" + cluster.name +
		"\n  provides: [coredns, local-path]\noverlay: local\ncomponents: [namespaces]\nimages:\n  registry: " + strings.TrimPrefix(server.URL, "http://") + "/acme\n"
	guest := newEnvironment(t, "guest", wanted)
	if r := guest.try(t, "up", "--skip-verify", "-o", "json"); !strings.Contains(r.stdout+r.stderr, "orrery images push probe") {
		t.Errorf("an image that is not in the registry: %v", r)
	}
	guest.run(t, "images", "build", "probe")
	guest.run(t, "images", "push", "probe")
	guest.run(t, "doctor")
	// Checks with pods would need a registry that the nodes reach.
	guest.run(t, "up", "--skip-verify", "-o", "json")
	if out := guest.run(t, "up", "--skip-verify"); !strings.Contains(out, "nothing to do") {
		t.Errorf("a second up: %s", out)
	}
	if r := guest.try(t, "stop"); r.code != 3 {
		t.Errorf("stop: %v", r)
	}

	// Two environments of one cluster: what the first has, the second is refused.
	second := newEnvironment(t, "second", wanted)
	if r := second.try(t, "up", "--adopt", "-o", "json"); r.code == 0 || !strings.Contains(r.stdout+r.stderr, "environment "+guest.name) {
		t.Errorf("up of another environment: %v", r)
	}

	// A change: one more image that pods may run is one changed policy.
	if err := guest.write(t.TempDir(), wanted+"  allow: [registry.example.org/tool@sha256:"+strings.Repeat("a", 64)+"]\n"); err != nil {
		t.Fatal(err)
	}
	if out := guest.run(t, "up", "--skip-verify"); strings.Contains(out, "nothing to do") {
		t.Errorf("up after a change: %s", out)
	}

	// What somebody puts into a namespace of ours keeps it, and is told.
	cluster.run(t, "kubectl", "create", "configmap", "theirs", "-n", "messaging")
	if out := guest.run(t, "down", "--plain"); !strings.Contains(out, "messaging") {
		t.Errorf("down does not tell what stays: %s", out)
	}
	cluster.run(t, "kubectl", "get", "configmap", "theirs", "-n", "messaging")
	left := cluster.run(t, "kubectl", "get", "configmap", "-n", "kube-system", "-l", "orrery.dev/environment="+guest.name, "-o", "name")
	if strings.TrimSpace(left) != "" {
		t.Errorf("inventories after down: %s", left)
	}
	if out := cluster.run(t, "kubectl", "get", "namespaces", "-o", "name"); strings.Contains(out, "observability") {
		t.Errorf("namespaces after down: %s", out)
	}
}
