package e2e

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/mirror"
)

const (
	lateCRD = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: comets.example.org}
spec:
  group: example.org
  names: {kind: Comet, listKind: CometList, plural: comets, singular: comet}
  scope: Namespaced
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`
	lateCR = "apiVersion: example.org/v1\nkind: Comet\nmetadata: {name: halley, namespace: apps}\nperiod: 76\n"
	doomed = `apiVersion: v1
kind: Namespace
metadata:
  name: doomed
  annotations: {orrery.dev/purpose: "a namespace that does not go away"}
  labels: {pod-security.kubernetes.io/enforce: restricted}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: notes, namespace: doomed}
data: {a: b}
`
)

// with adds a file to a component that is a kustomization, until it is taken back.
func (g *handed) with(t *testing.T, component, file, text string) (back func()) {
	t.Helper()
	at := filepath.Join(g.catalog, "infra/k8s/base", component, file)
	if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	revert := g.edit(t, workload{file: filepath.Join("infra/k8s/base", component, "kustomization.yaml")}, "resources:\n", "resources:\n  - "+file+"\n")
	return func() {
		revert()
		if err := os.Remove(at); err != nil {
			t.Fatal(err)
		}
	}
}

// late: an object whose kind only a later wave brings. Its component says so and keeps what it has; brought with it,
// both are there, and taken back, both are gone.
func (g *handed) late(t *testing.T) {
	before := g.pods(t)
	object := g.with(t, "namespaces", "comet.yaml", lateCR)
	later := g.with(t, "kube-state-metrics", "kind.yaml", lateCRD)
	r := g.try(t, "gitops", "push")
	t.Logf("said after %.1f s: %s", r.took.Seconds(), last(r.stderr, 600))
	status := g.try(t, "gitops", "status")
	for _, said := range []string{r.stderr, applicationLine(status.stdout, "namespaces")} {
		if !strings.Contains(said, "Comet") || !strings.Contains(said, "CRD") {
			t.Errorf("a kind that comes later is not said: %v\nand %v", r, status)
		}
	}
	if r.code != 1 || status.code != 1 {
		t.Errorf("%v\nand %v\nwant exit status 1", r, status)
	}
	later()
	with := g.with(t, "namespaces", "kind.yaml", lateCRD)
	g.run(t, "gitops", "push")
	if _, err := g.client.Get(t.Context(), "example.org/v1", "Comet", "apps", "halley"); err != nil {
		t.Error(err)
	}
	with() // the last edit first
	object()
	g.run(t, "gitops", "push")
	g.same(t, "a kind that came, and went", before)
}

// stuck: a namespace that somebody deletes, and that does not go away, is said; when it has gone a push makes it anew,
// with the rights that went with it.
func (g *handed) stuck(t *testing.T) {
	before := g.pods(t)
	back := g.with(t, "namespaces", "doomed.yaml", doomed)
	g.run(t, "gitops", "push")
	namespace, err := g.client.Get(t.Context(), "v1", "Namespace", "", "doomed")
	if err != nil {
		t.Fatal(err)
	}
	const held = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"held","namespace":"doomed","finalizers":["example.org/held"]}}`
	g.runWith(t, held, "kubectl", "create", "-f", "-")
	g.run(t, "kubectl", "delete", "namespace", "doomed", "--wait=false")
	t.Logf("stuck, said: %s", eventually(t, "it is said", 2*time.Minute, func(ctx context.Context) error {
		r := g.invoke(ctx, nil, "gitops", "status")
		if r.code != 1 || !strings.Contains(r.stderr, "namespace doomed is terminating") || !strings.Contains(r.stderr, "gitops push") {
			return errors.New(r.String())
		}
		return nil
	}))
	g.run(t, "kubectl", "-n", "doomed", "patch", "configmap", "held", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	t.Logf("gone: %s", eventually(t, "it is gone", 3*time.Minute, func(ctx context.Context) error {
		now, err := g.client.Get(ctx, "v1", "Namespace", "", "doomed")
		if err == nil && now.GetUID() == namespace.GetUID() {
			return errors.New("it is the old one")
		}
		return nil
	}))
	g.run(t, "gitops", "push")
	if _, err := g.client.Get(t.Context(), "v1", "ConfigMap", "doomed", "notes"); err != nil {
		t.Error(err)
	}
	g.well(t)
	back()
	g.run(t, "gitops", "push")
	g.same(t, "a namespace that was stuck", before)
}

// rootDeleted: without its root nobody follows what is pushed. That is said, all runs, and a push mends it.
func (g *handed) rootDeleted(t *testing.T) {
	before := g.pods(t)
	g.run(t, "kubectl", "-n", gitops.Namespace, "delete", "application", gitops.Root, "--cascade=foreground")
	if r := g.try(t, "gitops", "status"); r.code != 1 || !strings.Contains(lineWith(r.stdout, gitops.Root+" "), "Missing") {
		t.Errorf("%v", r)
	}
	g.same(t, "without the root", before)
	g.run(t, "gitops", "push")
	g.same(t, "mended", before)
}

// damaged: the mirror's disk has other bytes than were pushed. Status says of which component, also when Argo CD
// has it in memory still; all runs, and a push mends it.
func (g *handed) damaged(t *testing.T) {
	before := g.pods(t)
	apps, err := g.client.List(t.Context(), "argoproj.io/v1alpha1", "Application", gitops.Namespace, "")
	if err != nil {
		t.Fatal(err)
	}
	revision := ""
	for _, a := range apps {
		if s := gitops.StatusOf(&a); s.Component == "metrics-server" {
			revision = s.Revision
		}
	}
	blob := func(digest string) string {
		_, hex, _ := strings.Cut(digest, ":")
		return g.state("registry", "docker/registry/v2/blobs/sha256", hex[:2], hex, "data")
	}
	for _, c := range []struct{ what, reference, component string }{
		{"a layer", "@" + revision, "metrics-server"}, {"a manifest", "@" + revision, "metrics-server"},
		{"the Applications", ":" + gitops.Tag, gitops.Root}, {"the manifest of the Applications", ":" + gitops.Tag, "what is followed"},
	} {
		artifact, err := remote.Image(g.artifact(t, c.reference), remote.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := artifact.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		digest, err := artifact.Digest()
		if err != nil {
			t.Fatal(err)
		}
		file := blob(digest.String())
		if !strings.Contains(c.what, "manifest") {
			file = blob(manifest.Layers[0].Digest.String())
		}
		if err := os.Truncate(file, 100); err != nil {
			t.Fatal(err)
		}
		r := g.try(t, "gitops", "status")
		t.Logf("%s: %s", c.what, last(r.stderr, 400))
		if r.code != 1 || !strings.Contains(r.stderr, c.component) || !strings.Contains(r.stderr, "gitops push") {
			t.Errorf("%s is damaged: %v", c.what, r)
		}
		// What it has in memory goes with it.
		g.run(t, "kubectl", "-n", gitops.Namespace, "delete", "pod", "-l", "app.kubernetes.io/name=argocd-repo-server", "--wait=false")
		g.run(t, "gitops", "push")
		g.run(t, "kubectl", "-n", gitops.Namespace, "rollout", "status", "deployment/argocd-repo-server", "--timeout=2m")
		g.run(t, "gitops", "status")
	}
	after := g.pods(t)
	for pod := range before {
		if !strings.Contains(pod, "argocd-repo-server") && before[pod] != after[pod] {
			t.Errorf("damaged and mended: %s was %s and is %q", pod, before[pod], after[pod])
		}
	}
}

// movedBack: somebody has the tag point to what was pushed before, as a push by force or of another branch does.
// Argo CD follows; it is said from where to where, and a push goes forward again.
func (g *handed) movedBack(t *testing.T) {
	tag := g.artifact(t, ":"+gitops.Tag)
	before, err := remote.Get(tag, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	revert := g.edit(t, metricsServer, "metadata:\n", "metadata:\n  annotations: {orrery.dev/e2e: moved}\n")
	annotated := func(ctx context.Context) bool {
		d, err := g.client.Get(ctx, "apps/v1", "Deployment", metricsServer.namespace, "metrics-server")
		return err == nil && d.GetAnnotations()["orrery.dev/e2e"] != ""
	}
	g.run(t, "gitops", "push")
	if !annotated(t.Context()) {
		t.Fatal("the change is not there")
	}
	m := mirror.Mirror{Address: tag.Context().RegistryStr(), PasswordFile: g.state("pki", "mirror-password")}
	if err := remote.Tag(tag.Context().Tag(gitops.Tag), before, remote.WithContext(t.Context()), remote.WithAuth(m)); err != nil {
		t.Fatal(err)
	}
	g.run(t, "kubectl", "-n", gitops.Namespace, "annotate", "application", gitops.Root, "argocd.argoproj.io/refresh=normal")
	t.Logf("moved, followed and said: %s", eventually(t, "it is said", 2*time.Minute, func(ctx context.Context) error {
		r := g.invoke(ctx, nil, "gitops", "status")
		back := strings.Contains(r.stderr, "somebody else moved") && strings.Contains(r.stderr, "to "+gitops.Revision(before.Digest.String()))
		if r.code != 1 || !back || annotated(ctx) {
			return errors.New(r.String())
		}
		return nil
	}))
	g.run(t, "gitops", "push")
	if !annotated(t.Context()) {
		t.Error("a push did not go forward again")
	}
	revert()
	g.run(t, "gitops", "push")
}

// artifact of the platform in the mirror.
func (g *handed) artifact(t *testing.T, reference string) name.Reference {
	t.Helper()
	registry := strings.TrimPrefix(g.status(t).Endpoints["registry"], "http://")
	ref, err := name.ParseReference(registry+"/"+gitops.Repository+reference, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// applicationLine is what a status says of an Application.
func applicationLine(status, name string) string {
	for line := range strings.Lines(status) {
		if strings.HasPrefix(line, name+" ") {
			return line
		}
	}
	return ""
}
