package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/mirror"
)

const gitopsPlatform = "servers: 1\nagents: 0\n" +
	"components: [namespaces, coredns, local-path, metrics-server, nats, kube-state-metrics, argocd]\n" +
	"gitops: {source: git}\n" // which deploys the git server; what is handed over with is said

// TestGitOps is the loop: handed over without a restart, a change that runs, its revert, changes that do
// not get through, changes by hand that are undone, and taken back.
func TestGitOps(t *testing.T) {
	if os.Getenv("ORRERY_E2E_FULL") != "1" {
		t.Skip("it pushes some ten times and waits for what does not get through, five minutes and more: ORRERY_E2E_FULL=1 runs it")
	}
	e := newEnvironment(t, "gitops", gitopsPlatform)
	e.catalog = filepath.Join(t.TempDir(), "clone")
	for _, name := range []string{"apps", "infra", "cmd", "internal", "go.mod", "go.sum", "LICENSE", "orrery.lock"} {
		copyOf(t, filepath.Join(repo, name), filepath.Join(e.catalog, name))
	}
	e.up(t)
	client, err := kube.Connect(e.state("kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	g := &handed{e, client}
	before := g.pods(t)
	start := time.Now()
	e.run(t, "gitops", "enable", "--source", "oci")
	t.Logf("hand-over: %.1f s", time.Since(start).Seconds())
	g.same(t, "handed over", before)
	if out := e.run(t, "up", "--plain"); !strings.Contains(out, "gitops push") {
		t.Errorf("up does not say who applies:\n%s", out)
	}
	g.same(t, "up", before)
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"change-and-revert", g.change}, {"refused-image", g.refused}, {"crash-loop", g.crashes}, {"drift", g.drift}, {"application-deleted", g.deleted},
		{"controller-killed", g.killed}, {"source-corrupt", g.corrupt}, {"nothing-secret", g.secrets},
		{"root-deleted", g.rootDeleted}, {"moved-back", g.movedBack}, {"damaged", g.damaged}, {"late-kind", g.late}, {"stuck-namespace", g.stuck},
		{"git", g.git},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Cleanup(func() { e.keepSupport(t) })
			part.run(t)
			e.run(t, "gitops", "status")
		})
	}
	before = g.pods(t)
	e.run(t, "gitops", "disable")
	e.run(t, "up")
	if out := e.run(t, "up", "--plain"); !strings.Contains(out, "nothing to do") {
		t.Errorf("after it was taken back, up does not come to an end:\n%s", out)
	}
	g.same(t, "taken back", before)
}

type handed struct {
	*environment
	client *kube.Client
}

// workload is a Deployment in a file of the catalogue.
type workload struct{ file, namespace, selector string }

var (
	metricsServer = workload{"infra/k8s/base/metrics-server/deployment.yaml", "kube-system", "k8s-app=metrics-server"}
	// stateMetrics is in a namespace in which the image policy refuses: kube-system is left out of it, apps is warned.
	stateMetrics = workload{"infra/k8s/base/kube-state-metrics/deployment.yaml", "observability", "app.kubernetes.io/name=kube-state-metrics"}
)

// pods of all namespaces that are not ending, by UID and number of restarts.
func (g *handed) pods(t *testing.T) map[string]string {
	t.Helper()
	pods, err := g.client.List(t.Context(), "v1", "Pod", "", "")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, p := range pods {
		if p.GetDeletionTimestamp() != nil { // of the change before
			continue
		}
		restarts := int64(0)
		list, _, _ := unstructured.NestedSlice(p.Object, "status", "containerStatuses")
		for _, c := range list {
			n, _, _ := unstructured.NestedInt64(c.(map[string]any), "restartCount")
			restarts += n
		}
		found[p.GetNamespace()+"/"+p.GetName()] = fmt.Sprintf("%s, %d restarts", p.GetUID(), restarts)
	}
	return found
}

func (g *handed) same(t *testing.T, what string, before map[string]string) {
	t.Helper()
	if now := g.pods(t); !maps.Equal(before, now) {
		t.Errorf("%s: pods were\n%v\nand are\n%v", what, before, now)
	}
}

// edit changes the file, and puts it back when the test ends, without a push.
func (g *handed) edit(t *testing.T, w workload, from, to string) (revert func()) {
	t.Helper()
	file := filepath.Join(g.catalog, w.file)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		t.Fatalf("no %q in %s", from, w.file)
	}
	write := func(s string) {
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(strings.Replace(string(text), from, to, 1))
	return func() { write(string(text)) }
}

// ready are the pods of a workload that are, by name; there is one at least.
func (g *handed) ready(t *testing.T, w workload) map[string]bool {
	t.Helper()
	pods, err := g.client.List(t.Context(), "v1", "Pod", w.namespace, w.selector)
	if err != nil {
		t.Fatal(err)
	}
	ready := map[string]bool{}
	for _, p := range pods {
		if p.GetDeletionTimestamp() == nil && kube.StatusCondition(&p, "Ready").True() {
			ready[p.GetName()] = true
		}
	}
	if len(ready) == 0 {
		t.Fatalf("no pod of %s is ready", w.selector)
	}
	return ready
}

// change: a push is a new pod, and the revert another one.
func (g *handed) change(t *testing.T) {
	old := g.ready(t, metricsServer)
	revert := g.edit(t, metricsServer, "    spec:\n", "      annotations: {orrery.dev/e2e: changed}\n    spec:\n")
	if r := g.try(t, "gitops", "diff"); r.code != 1 || !strings.Contains(r.stdout, "orrery.dev/e2e: changed") {
		t.Errorf("%v; want the change", r)
	}
	for _, step := range []string{"change", "revert"} {
		start := time.Now()
		out := g.run(t, "gitops", "push", "--plain")
		t.Logf("%s: %.1f s", step, time.Since(start).Seconds())
		if !strings.Contains(out, "changed: metrics-server") {
			t.Errorf("%s reached more or less than one component:\n%s", step, out)
		}
		now := g.ready(t, metricsServer)
		for pod := range now {
			if old[pod] {
				t.Errorf("%s: pod %s is the old one", step, pod)
			}
		}
		old = now
		revert()
	}
	g.run(t, "gitops", "diff")
}

// fails: a push that does not get through says why, leaves the old pods, and the revert is quick.
func (g *handed) fails(t *testing.T, w workload, from, to string, why ...string) {
	old := g.ready(t, w)
	revert := g.edit(t, w, from, to)
	r := g.try(t, "gitops", "push")
	if r.code != 1 {
		t.Errorf("%v; want exit status 1", r)
	}
	t.Logf("said after %.1f s: %s", r.took.Seconds(), last(r.stderr, 600))
	status := g.try(t, "gitops", "status")
	found := false
	for _, part := range why {
		found = found || strings.Contains(status.stdout, part) && strings.Contains(r.stderr, part)
	}
	if status.code != 1 || !found {
		t.Errorf("%v\nand %v\nwant one of %q", r, status, why)
	}
	for pod := range old {
		if !g.ready(t, w)[pod] {
			t.Errorf("the old pod %s is gone", pod)
		}
	}
	revert()
	g.run(t, "gitops", "push")
	if now := g.ready(t, w); !maps.Equal(old, now) {
		t.Errorf("pods were %v and are %v", old, now)
	}
}

// refused: an image that the lock does not name is stopped by the admission policy.
func (g *handed) refused(t *testing.T) {
	g.fails(t, stateMetrics, "image: registry.orrery.internal/kube-state-metrics", "image: example.com/other@sha256:"+strings.Repeat("1a", 32), "is neither in orrery.lock nor allowed")
}

func (g *handed) crashes(t *testing.T) {
	g.fails(t, metricsServer, "- --kubelet-use-node-status-port\n", "- --kubelet-use-node-status-port\n            - --no-such-flag\n", "crash", "exit", "CrashLoop")
}

// drift: what somebody changes by hand is changed back, and who it was is known.
func (g *handed) drift(t *testing.T) {
	deployment := kube.Ref{APIVersion: "apps/v1", Kind: "Deployment", Namespace: "kube-system", Name: "metrics-server"}
	replicas := func(ctx context.Context) (int64, error) {
		d, err := g.client.Get(ctx, deployment.APIVersion, deployment.Kind, deployment.Namespace, deployment.Name)
		if err != nil {
			return 0, err
		}
		n, _, err := unstructured.NestedInt64(d.Object, "spec", "replicas")
		return n, err
	}
	want, err := replicas(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g.run(t, "kubectl", "-n", "kube-system", "scale", "deployment", "metrics-server", fmt.Sprintf("--replicas=%d", want+1))
	t.Logf("scaled by hand, undone: %s", eventually(t, "replicas are as pushed", time.Minute, func(ctx context.Context) error {
		n, err := replicas(ctx)
		if err == nil && n != want {
			err = fmt.Errorf("%d replicas, pushed were %d", n, want)
		}
		return err
	}))
	g.run(t, "kubectl", "-n", "kube-system", "delete", "service", "metrics-server")
	t.Logf("deleted by hand, there again: %s", eventually(t, "the Service is there", time.Minute, func(ctx context.Context) error {
		_, err := g.client.Get(ctx, "v1", "Service", "kube-system", "metrics-server")
		return err
	}))
	g.well(t)
	out := g.run(t, "gitops", "status")
	for _, want := range []string{"patch scale Deployment kube-system/metrics-server", "delete Service kube-system/metrics-server"} {
		if line := lineWith(out, want); !strings.Contains(line, "orrery-admin") || !strings.Contains(line, "kubectl") {
			t.Errorf("who did it is not said of %q:\n%s", want, out)
		}
	}
	g.run(t, "verify", "argocd")
}

// lineWith is the first line of text that has part.
func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

func (g *handed) well(t *testing.T) {
	t.Helper()
	eventually(t, "all is synced and healthy", 2*time.Minute, func(ctx context.Context) error {
		if r := g.invoke(ctx, nil, "gitops", "status"); r.code != 0 {
			return errors.New(r.String())
		}
		return nil
	})
}

// deleted: an Application takes nothing with it, and comes back. Nobody can have it take something.
func (g *handed) deleted(t *testing.T) {
	before := g.ready(t, metricsServer)
	r := g.try(t, "kubectl", "-n", gitops.Namespace, "patch", "application", "metrics-server", "--type=merge",
		"-p", `{"metadata":{"finalizers":["resources-finalizer.argocd.argoproj.io"]}}`)
	if r.code == 0 || !strings.Contains(r.stderr, "leave out the finalizer") {
		t.Errorf("an Application that deletes a component: %v", r)
	}
	g.run(t, "kubectl", "-n", gitops.Namespace, "delete", "application", "metrics-server")
	g.well(t)
	if now := g.ready(t, metricsServer); !maps.Equal(before, now) {
		t.Errorf("pods were %v and are %v", before, now)
	}
}

// killed: in the middle of a push the controller is made anew, and goes on.
func (g *handed) killed(t *testing.T) {
	revert := g.edit(t, metricsServer, "    spec:\n", "      annotations: {orrery.dev/e2e: killed}\n    spec:\n")
	push := g.start(t, "gitops", "push", "-o", "json")
	push.until(t, "it waits", func(e event) bool { return strings.Contains(e.Message, "waiting for") })
	g.run(t, "kubectl", "-n", gitops.Namespace, "delete", "pod", "-l", "app.kubernetes.io/name=argocd-controller", "--grace-period=0", "--force")
	push.until(t, "it is done", func(e event) bool { return e.Type == "summary" })
	revert()
	g.run(t, "gitops", "push")
}

// corrupt: what Argo CD follows is no manifest. That is said, all goes on running, and a push mends it.
func (g *handed) corrupt(t *testing.T) {
	before := g.pods(t)
	ref := g.artifact(t, ":"+gitops.Tag)
	m := mirror.Mirror{Address: ref.Context().RegistryStr(), PasswordFile: g.state("pki", "mirror-password")}
	artifact, err := mutate.AppendLayers(empty.Image, static.NewLayer([]byte("no archive"), types.OCILayer))
	if err == nil {
		err = remote.Write(ref, artifact, remote.WithContext(t.Context()), remote.WithAuth(m))
	}
	if err != nil {
		t.Fatal(err)
	}
	g.run(t, "kubectl", "-n", gitops.Namespace, "annotate", "application", gitops.Root, "argocd.argoproj.io/refresh=normal")
	t.Logf("corrupt, said: %s", eventually(t, "it is said", time.Minute, func(ctx context.Context) error {
		r := g.invoke(ctx, nil, "gitops", "status")
		if r.code != 1 || !strings.Contains(r.stderr, "somebody else moved") || !strings.Contains(lineWith(r.stdout, gitops.Root+" "), "Unknown") {
			return errors.New(r.String())
		}
		return nil
	}))
	g.same(t, "what is followed is corrupt", before)
	g.run(t, "gitops", "push")
	g.same(t, "mended", before)
}

// secrets: nothing that was pushed has a value of a Secret of NATS in it, however it is written.
func (g *handed) secrets(t *testing.T) {
	secret, err := g.client.Get(t.Context(), "v1", "Secret", "messaging", "nats-app")
	if err != nil {
		t.Fatal(err)
	}
	values := kube.SecretData(secret)
	read := func(reference string) []byte {
		t.Helper()
		artifact, err := remote.Image(g.artifact(t, reference), remote.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := gitops.Manifest(artifact)
		if err != nil {
			t.Fatal(err)
		}
		return manifest
	}
	apps, err := kube.Objects(read(":" + gitops.Tag))
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, app := range apps {
		manifest := string(read("@" + gitops.StatusOf(app).Revision))
		for key, value := range values {
			text := strings.TrimSpace(string(value))
			if strings.HasSuffix(key, ".pub") || len(text) < 8 {
				continue
			}
			looked++
			if strings.Contains(manifest, text) || strings.Contains(manifest, base64.StdEncoding.EncodeToString(value)) {
				t.Errorf("%s was pushed with %s of messaging/nats-app", app.GetName(), key)
			}
		}
	}
	if looked == 0 {
		t.Fatal("nothing was looked for")
	}
}
