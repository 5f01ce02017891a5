package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/mirror"
)

// TestExistingCluster: a cluster that one environment made, and another takes as somebody
// else's. Its nodes pull what they pull, of whichever registry, from the mirror; so that is the
// registry of the other: written to on 127.0.0.1 with a password, read by the nodes.
func TestExistingCluster(t *testing.T) {
	t.Setenv("ORRERY_KEY_PASSWORD", "of this test") // or the kernel's keyring would keep one
	cluster := newEnvironment(t, "host", "servers: 1\nagents: 0\nnetwork: {plugin: auto}\n")
	cluster.run(t, "cluster", "create")
	registry := strings.TrimPrefix(cluster.status(t).Endpoints["registry"], "http://")
	wanted := "driver: existing\nexisting:\n  kubeconfig: " + cluster.state("kubeconfig") + "\n  context: orrery-" + cluster.name +
		"\n  provides: [coredns]\noverlay: local\ncomponents: [local-path]\nimages:\n  registry: " + registry + "/acme\n"
	guest := newEnvironment(t, "guest", wanted)
	if r := guest.try(t, "up", "--skip-verify", "-o", "json"); !strings.Contains(r.stdout+r.stderr, "orrery images push probe") {
		t.Errorf("an image that is not in the registry: %v", r)
	}
	guest.run(t, "images", "build", "probe", "local-path")
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	if r := guest.try(t, "images", "push", "probe"); r.code == 0 || !strings.Contains(r.stderr, "UNAUTHORIZED") {
		t.Errorf("push without a password: %v", r)
	}
	logIn(t, registry, cluster.state("pki", "mirror-password"))
	pushed := decode[[]struct{ Image, Reference, Signer string }](t, lastJSON(guest.run(t, "images", "push", "probe", "local-path", "-o", "json")))
	guest.run(t, "images", "verify")
	guest.run(t, "doctor")
	guest.upToExisting(t, cluster)
	if out := guest.run(t, "up", "--skip-verify"); !strings.Contains(out, "nothing to do") {
		t.Errorf("a second up: %s", out)
	}
	for _, p := range pushed {
		if p.Signer == "" || !strings.HasPrefix(p.Reference, registry+"/acme/"+p.Image+"@") {
			t.Errorf("pushed: %+v", p)
		}
	}
	// What runs was pulled from there, and is nowhere else.
	told := cluster.run(t, "kubectl", "get", "events", "-n", "local-path-storage", "-o", "jsonpath={.items[?(@.reason=='Pulled')].message}")
	image, digest, _ := strings.Cut(pushed[1].Reference, "@")
	if !strings.Contains(told, `Successfully pulled image "`+image) || !strings.Contains(told, digest) {
		t.Errorf("%s was not pulled: %s", pushed[1].Reference, told)
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
	signer := decode[struct{ TrustedKeys []string }](t, guest.run(t, "images", "verify", "-o", "json"))

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
	// The key that signed is the machine's, and goes on.
	again := decode[[]struct{ Signer string }](t, lastJSON(guest.run(t, "images", "push", "probe", "-o", "json")))
	if len(signer.TrustedKeys) != 1 || again[0].Signer != signer.TrustedKeys[0] || again[0].Signer != pushed[0].Signer {
		t.Errorf("signed by %+v, then by %+v; trusted is %v", pushed, again, signer.TrustedKeys)
	}
}

// upToExisting has checks run for real. A network without policies is the one thing that this
// machine may lack, and is found out.
func (e *environment) upToExisting(t *testing.T, cluster *environment) {
	t.Helper()
	r := e.try(t, "up", "-o", "json")
	passed := map[string]bool{}
	for _, event := range events(t, r.stdout) {
		passed[event.Step] = passed[event.Step] || event.State == "done"
	}
	network := decode[struct{ Network string }](t, cluster.run(t, "status", "-o", "json")).Network
	t.Logf("the network is %s; up: exit %d after %.1f s", network, r.code, r.took.Seconds())
	if r.code != 0 && network == "cilium" {
		t.Fatal(r)
	}
	for _, step := range []string{"verify/cluster", "verify/namespaces", "verify/image-policy", "verify/local-path"} {
		if !passed[step] && (step != "verify/cluster" || network == "cilium") {
			t.Errorf("%s did not succeed on %s: %v", step, network, r)
		}
	}
}

// logIn is docker login, for whoever runs after it in this test.
func logIn(t *testing.T, registry, passwordFile string) {
	t.Helper()
	password, err := mirror.ReadPassword(passwordFile)
	if err != nil {
		t.Fatal(err)
	}
	auth := base64.StdEncoding.EncodeToString([]byte(mirror.User + ":" + password))
	text := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, registry, auth)
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
