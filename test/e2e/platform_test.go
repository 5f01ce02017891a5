package e2e

import (
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"sigs.k8s.io/yaml"

	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/mirror"
)

// core is the part of the platform that every test here needs. ORRERY_E2E_CORE=1 limits
// TestPlatform to it, for a machine that would take an hour to compile the rest.
const core = "network: {plugin: ptp}\ncomponents: [local-path, metrics-server, nats]\n"

// TestPlatform is one day of the default platform, three servers and two agents with all
// components: what a person does with it, then everything that can be killed, then down.
// The subtests after "up" do not need each other.
func TestPlatform(t *testing.T) {
	e := newEnvironment(t, "day", limits())
	journey := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { e.keepSupport(t) })
			f(t)
		})
	}
	var first []event
	var sum upSummary
	first, sum = e.up(t)
	journey("up", func(t *testing.T) { fromNothing(t, first, sum) })
	journey("status", func(t *testing.T) { statusShape(t, e) })
	journey("verify", func(t *testing.T) { verifyForms(t, e) })
	journey("again", func(t *testing.T) { again(t, e) })
	journey("host", unchanged)
	journey("bounds", func(t *testing.T) { bounded(t, e) })
	journey("kubectl", func(t *testing.T) { kubectl(t, e) })
	journey("logs", func(t *testing.T) { logs(t, e) })
	journey("observed", func(t *testing.T) { observed(t, e) })
	journey("nats", func(t *testing.T) { natsFromHost(t, e) })
	journey("registry", func(t *testing.T) { ownImage(t, e) })
	journey("prune", func(t *testing.T) { pruned(t, e) })
	journey("signatures", func(t *testing.T) { signatures(t, e) })
	journey("image-policy", func(t *testing.T) { imagePolicy(t, e) })
	journey("kubeconfig", func(t *testing.T) { mergeKubeconfig(t, e) })
	journey("support", func(t *testing.T) { supportKeepsSecrets(t, e) })
	journey("audit log", func(t *testing.T) { auditTellsWho(t, e) })
	journey("keys at rest", func(t *testing.T) { keysAtRestAreExchanged(t, e) })
	journey("diff", func(t *testing.T) { drift(t, e) })
	journey("neighbour", func(t *testing.T) { neighbour(t, e) })
	t.Run("faults", func(t *testing.T) { faults(t, e) })
	t.Run("down", func(t *testing.T) {
		t.Logf("down took %.1f s", e.down(t).Seconds)
		kubeconfigIsOursNoMore(t, e)
		if st := e.status(t); st.Phase != "absent" {
			t.Errorf("after down the phase is %q", st.Phase)
		}
		// Removing what is not there is fine.
		e.down(t)
	})
}

func fromNothing(t *testing.T, all []event, sum upSummary) {
	for _, key := range []string{"build", "nodesReady", "platformReady", "total"} {
		if _, ok := sum.Seconds[key]; !ok {
			t.Errorf("the summary's seconds %v have no %s", sum.Seconds, key)
		}
	}
	if !sum.Changed || sum.Seconds["nodesReady"] <= 0 || sum.Seconds["platformReady"] < sum.Seconds["nodesReady"] || sum.Seconds["total"] < sum.Seconds["platformReady"] {
		t.Errorf("summary of the first up: changed %v, %v", sum.Changed, sum.Seconds)
	}
	ended := map[string]string{}
	for i, e := range all {
		if e.Type == "step" {
			ended[e.Step] = e.State
		}
		if e.Type == "summary" && i != len(all)-1 {
			t.Error("a summary is not the last line")
		}
		// The default profile brings the kinds of all its objects.
		if e.Type == "notice" && strings.Contains(e.Message, "waits for its CRD") && limits() == "" {
			t.Errorf("something was left undone: %s", e.Message)
		}
	}
	for _, step := range []string{"prepare", "cluster", "nodes", "deploy/nats", "verify/nats", "verify/cluster"} {
		if ended[step] != "done" {
			t.Errorf("step %s ended as %q, want done", step, ended[step])
		}
	}
	t.Logf("up from nothing: %v", sum.Seconds)
}

func statusShape(t *testing.T, e *environment) {
	st := e.status(t)
	if st.Environment != e.name || st.Driver != "native" || st.Phase != "running" {
		t.Errorf("environment %q, driver %q, phase %q", st.Environment, st.Driver, st.Phase)
	}
	zones, names, addresses := map[string]int{}, []string{}, map[string]bool{}
	for _, n := range st.Nodes {
		names = append(names, n.Name+" "+n.Role)
		zones[n.Zone]++
		addresses[n.Address] = true
		if !n.Ready {
			t.Errorf("%s is not ready", n.Name)
		}
	}
	if want := []string{"server1 server", "server2 server", "server3 server", "agent1 agent", "agent2 agent"}; !slices.Equal(names, want) {
		t.Errorf("nodes %v, want %v", names, want)
	}
	if len(zones) != 3 || len(addresses) != 5 {
		t.Errorf("zones %v, addresses %v: want three zones and five addresses", zones, addresses)
	}
	components := map[string]string{}
	for _, c := range st.Components {
		components[c.Name] = c.State
	}
	for _, want := range []string{"namespaces", "coredns", "local-path", "metrics-server", "nats"} {
		if components[want] != "ready" {
			t.Errorf("component %s is %q: %v", want, components[want], components)
		}
	}
	for _, want := range []string{"api", "registry"} {
		if !strings.Contains(st.Endpoints[want], "127.0.0.1:") {
			t.Errorf("endpoint %s is %q", want, st.Endpoints[want])
		}
	}
}

func verifyForms(t *testing.T, e *environment) {
	v := e.verify(t)
	components := map[string]int{}
	for _, c := range v.Checks {
		components[c.Component]++
		if c.Detail == "" {
			t.Errorf("%s/%s does not say what it proved", c.Component, c.Name)
		}
	}
	for _, want := range []string{"cluster", "namespaces", "coredns", "local-path", "metrics-server", "nats"} {
		if components[want] == 0 {
			t.Errorf("nothing of %s was checked: %v", want, components)
		}
	}
	if len(v.Checks) != v.Passed+v.Failed+v.Skipped {
		t.Errorf("%d checks, but %d + %d + %d", len(v.Checks), v.Passed, v.Failed, v.Skipped)
	}
	var junit struct {
		XMLName xml.Name `xml:"testsuite"`
		Tests   int      `xml:"tests,attr"`
		Cases   []struct {
			Class string `xml:"classname,attr"`
		} `xml:"testcase"`
	}
	out := e.run(t, "verify", "namespaces", "-o", "junit")
	if err := xml.Unmarshal([]byte(out), &junit); err != nil {
		t.Fatalf("junit: %v in %s", err, out)
	}
	if junit.Tests == 0 || junit.Tests != len(junit.Cases) || junit.Cases[0].Class != "namespaces" {
		t.Errorf("junit: %+v", junit)
	}
	if r := e.try(t, "verify", "no-such-component"); r.code != 2 || !strings.Contains(r.stderr, "no-such-component") {
		t.Errorf("an unknown component: %v", r)
	}
}

// again: an up finds nothing to do, and does nothing. On a busy machine a pod may just have
// missed a probe: then there is something to wait for, and the next one finds nothing.
func again(t *testing.T, e *environment) {
	for attempt := 1; ; attempt++ {
		start := time.Now()
		all, sum := e.up(t)
		var did []string
		for _, ev := range all {
			if ev.Type == "step" || ev.Type == "progress" {
				did = append(did, ev.line)
			}
		}
		if !sum.Changed && len(did) == 0 {
			t.Logf("up %d with nothing to do: %.2f s by its own clock, %.2f s of the whole process", attempt, sum.Seconds["total"], time.Since(start).Seconds())
			return
		}
		if attempt == 3 {
			t.Fatalf("up found something to do %d times; the last time:\n%s", attempt, strings.Join(did, ""))
		}
		t.Logf("up %d found something to do:\n%s", attempt, strings.Join(did, ""))
	}
}

func kubectl(t *testing.T, e *environment) {
	if out := e.run(t, "kubectl", "get", "nodes", "-o", "name"); strings.Count(out, "node/") != 5 {
		t.Errorf("kubectl get nodes: %s", out)
	}
	// Its flags are its own and its exit status is passed on.
	if r := e.try(t, "kubectl", "-n", "apps", "get", "pod", "no-such-pod", "-o", "json"); r.code != 1 || !strings.Contains(r.stderr, "NotFound") {
		t.Errorf("an unknown pod: %v", r)
	}
	// Nobody without credentials is let in.
	anonymous := filepath.Join(t.TempDir(), "anonymous")
	config := e.kubeconfig(t)
	config.Users[0].User = map[string]any{}
	b, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(anonymous, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := e.try(t, "kubectl", "--kubeconfig", anonymous, "get", "pods", "-A"); r.code == 0 {
		t.Errorf("an anonymous client may list pods: %v", r)
	}
}

func logs(t *testing.T, e *environment) {
	for name, n := range e.nodes(t) {
		if !n.Running || len(n.Services) == 0 {
			t.Errorf("%s: %+v", name, n)
		}
		for _, s := range n.Services {
			if s.PID == 0 {
				t.Errorf("%s of %s does not run", s.Name, name)
			}
			if out := e.run(t, "logs", name+"/"+s.Name); out == "" {
				t.Errorf("the log of %s/%s is empty", name, s.Name)
			}
		}
	}
	for arg, says := range map[string]string{"server1/no-such-service": "etcd", "no-such-node/etcd": "server1", "server1": "NODE/SERVICE"} {
		if r := e.try(t, "logs", arg); r.code == 0 || !strings.Contains(r.stderr, says) {
			t.Errorf("logs %s should fail and mention %s: %v", arg, says, r)
		}
	}
}

// ownImage is the promise of the mirror: build, push to 127.0.0.1, run.
func ownImage(t *testing.T, e *environment) {
	reference := strings.TrimPrefix(e.status(t).Endpoints["registry"], "http://") + "/hello:1"
	ref, err := name.ParseReference(reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	// Any user of the machine reaches the port; the password is root's.
	img := helloImage(t)
	if err := remote.Write(ref, img, remote.WithContext(t.Context())); err == nil || !strings.Contains(err.Error(), "UNAUTHORIZED") {
		t.Errorf("push %s without a password: %v", reference, err)
	}
	writer := mirror.Mirror{PasswordFile: e.state("pki", "mirror-password")}
	if err := remote.Write(ref, img, remote.WithContext(t.Context()), remote.WithAuth(writer)); err != nil {
		t.Fatalf("push %s: %v", reference, err)
	}
	pod := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: hello, namespace: apps}
spec:
  restartPolicy: Never
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: hello
      image: %s
      env: [{name: WHERE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
`, reference)
	e.runWith(t, pod, "kubectl", "apply", "-f", "-")
	t.Cleanup(func() {
		if r := e.invoke(t.Context(), nil, "kubectl", "-n", "apps", "delete", "pod", "hello", "--now", "--ignore-not-found"); r.code != 0 && t.Context().Err() == nil {
			t.Error(r)
		}
	})
	if r := e.try(t, "kubectl", "-n", "apps", "wait", "pod/hello", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=240s"); r.code != 0 {
		t.Fatalf("%v\n%s", r, e.run(t, "kubectl", "-n", "apps", "describe", "pod", "hello"))
	}
	node := e.run(t, "kubectl", "-n", "apps", "get", "pod", "hello", "-o", "jsonpath={.spec.nodeName}")
	if out := e.run(t, "kubectl", "-n", "apps", "logs", "hello"); out != "hello from "+node+"\n" {
		t.Errorf("the pod on %q says %q", node, out)
	}
	// A pod that asks for more than "restricted" is refused there.
	loose := strings.NewReplacer("hello, namespace", "loose, namespace", "drop: [ALL]", "add: [NET_ADMIN]").Replace(pod)
	if r := e.invoke(t.Context(), strings.NewReader(loose), "kubectl", "apply", "-f", "-"); r.code == 0 {
		t.Errorf("a privileged pod was admitted to apps: %v", r)
	}
}

// pruned: images that a tag named once are freed, and all that is deployed stays, with its signatures.
func pruned(t *testing.T, e *environment) {
	tag, err := name.NewTag(strings.TrimPrefix(e.status(t).Endpoints["registry"], "http://")+"/moved:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	writer := remote.WithAuth(mirror.Mirror{PasswordFile: e.state("pki", "mirror-password")})
	var last v1.Image
	for range 20 {
		if last, err = random.Image(1<<20, 1); err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(tag, last, remote.WithContext(t.Context()), writer); err != nil {
			t.Fatal(err)
		}
	}
	type freed struct {
		Manifests []struct{ Image string }
		Bytes     int64
	}
	would := decode[freed](t, e.run(t, "images", "prune", "--mirror", "--dry-run", "-o", "json"))
	before := disk.Size(e.state("registry"))
	did := decode[freed](t, e.run(t, "images", "prune", "--mirror", "-o", "json"))
	moved := 0
	for _, m := range did.Manifests {
		if strings.HasPrefix(m.Image, "moved@") {
			moved++
		}
	}
	if after := disk.Size(e.state("registry")); moved != 19 || did.Bytes < 19<<20 || would.Bytes != did.Bytes || before-after < did.Bytes {
		t.Errorf("of 19 images %d were freed, %d bytes (%d were foretold), the folder had %d and has %d", moved, did.Bytes, would.Bytes, before, after)
	}
	there, err := remote.Image(tag, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(there); err != nil {
		t.Errorf("what the tag names: %v", err)
	}
	e.run(t, "images", "verify")
	if err := remote.Write(tag, last, remote.WithContext(t.Context()), writer); err != nil {
		t.Errorf("a push afterwards: %v", err)
	}
}

func helloImage(t *testing.T) v1.Image {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "hello")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./testdata/hello")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build hello: %v\n%s", err, out)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return tarOf("hello", bin) })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/hello"}, User: "65532:65532"})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// drift: what is changed by hand is shown, and taken back.
func drift(t *testing.T, e *environment) {
	if r := e.try(t, "diff"); r.code != 0 || r.stdout != "" {
		t.Errorf("nothing was changed, but: %v", r)
	}
	purpose := func() string {
		return e.run(t, "kubectl", "get", "namespace", "apps", "-o", `jsonpath={.metadata.annotations.orrery\.dev/purpose}`)
	}
	want := purpose()
	for _, repair := range [][]string{{"up"}, {"deploy", "namespaces"}} {
		e.run(t, "kubectl", "annotate", "namespace", "apps", "--overwrite", "orrery.dev/purpose=changed by hand")
		if r := e.try(t, "diff"); r.code != 1 || !strings.Contains(r.stdout, "changed by hand") {
			t.Errorf("diff does not show a change made by hand: %v", r)
		}
		e.run(t, append(repair, "-o", "json")...)
		if got := purpose(); got != want {
			t.Errorf("after %v the namespace still says %q, want %q", repair, got, want)
		}
	}
	// What somebody else added is theirs.
	e.run(t, "kubectl", "label", "namespace", "apps", "--overwrite", "e2e.example/mine=yes")
	if r := e.try(t, "diff"); r.code != 0 {
		t.Errorf("a label of somebody else is shown as a difference: %v", r)
	}
	if r := e.try(t, "deploy", "no-such-component"); r.code != 2 {
		t.Errorf("an unknown component: %v", r)
	}
}

// neighbour makes a second environment beside the first and removes it again.
func neighbour(t *testing.T, e *environment) {
	second := newEnvironment(t, "two", "servers: 1\nagents: 0\n"+core)
	_, sum := second.up(t, "cluster", "create")
	t.Logf("cluster create, one node, beside five: %v", sum.Seconds)
	if len(second.status(t).Nodes) != 1 {
		t.Errorf("the second environment: %+v", second.status(t))
	}
	for _, port := range second.ports {
		if slices.Contains(e.ports, port) {
			t.Errorf("both use port %s", port)
		}
	}
	if err := second.ready(t.Context()); err != nil {
		t.Error(err)
	}
	var listed []string
	for _, st := range decode[[]status](t, e.run(t, "list", "-o", "json")) {
		listed = append(listed, st.Environment)
	}
	if !slices.Contains(listed, e.name) || !slices.Contains(listed, second.name) {
		t.Errorf("list shows %v", listed)
	}
	before := e.nodes(t)
	second.down(t)
	if err := e.ready(t.Context()); err != nil {
		t.Errorf("the first environment after the second's down: %v", err)
	}
	for _, n := range slices.Sorted(maps.Keys(before)) {
		for _, s := range before[n].Services {
			if now := e.nodes(t)[n].pid(s.Name); now != s.PID {
				t.Errorf("%s of %s was PID %d, is %d", s.Name, n, s.PID, now)
			}
		}
	}
	if out := e.run(t, "kubectl", "get", "--raw", "/readyz"); out != "ok" {
		t.Errorf("readyz of the first says %q", out)
	}
}
