package bundletest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/bundle/bundletest"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/check/smoke"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/fake"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
)

type noJournal struct{}

func (noJournal) Begin(driver.Effect) error  { return nil }
func (noJournal) Undone(driver.Effect) error { return nil }

// The pieces fit: what `up` does, step by step, without its engine.
func TestDeploy(t *testing.T) {
	ctx := t.Context()
	p := bundletest.New(t)
	cache := t.TempDir()
	digest, err := p.Import(ctx, cache)
	if err != nil {
		t.Fatal(err)
	}
	imported, err := bundle.OpenImported(cache, digest)
	if err != nil {
		t.Fatal(err)
	}
	store := bundle.NewStore(p.Locked, imported)

	host := fake.NewHost(t)
	agents := 1
	e := spec.Named("small")
	e.Servers, e.Agents, e.Network.Plugin = 1, &agents, spec.PluginPTP
	state := filepath.Join(t.TempDir(), e.Name)
	d, err := fake.New(fake.Options{Spec: e, StateDir: state, Journal: noJournal{}, Host: host.URL()})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Prepare(ctx); err != nil {
		t.Fatal(err)
	}
	o, err := d.Observe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	registry := o.Endpoints["registry"]

	signing := filepath.Join(state, "signing")
	if err := os.MkdirAll(signing, 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := sign.EnsureKey(ctx, signing, sign.Passwords{Given: "of a test"})
	if err != nil {
		t.Fatal(err)
	}
	policy := sign.Policy{Keys: []sign.PublicKey{key.Public()}, Locked: &p.Locked, Thorough: true}
	refs := map[string]string{}
	for _, img := range images(p) {
		built, err := store.Image(ctx, img)
		if err != nil {
			t.Fatal(err)
		}
		if err := image.Push(ctx, registry, built); err != nil {
			t.Fatal(err)
		}
		if err := sign.Attach(ctx, registry, img.Name, built.Digest, key, documents(t, store, built.Digest)); err != nil {
			t.Fatal(err)
		}
		if report, err := sign.Verify(ctx, registry, img.Name, built.Digest, policy); err != nil || !report.OK() {
			t.Errorf("%s: %+v, %v", img.Name, report, err)
		}
		refs[img.Name] = built.Reference()
	}
	for _, bin := range p.Catalog.Distribution.Files() {
		nodeProgram(t, store, filepath.Join(state, "dist", "bin"), bin, p.Locked.Binaries[bin.Name].SHA256, key, policy)
	}

	if err := d.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	c, err := kube.Connect(filepath.Join(state, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	overlay := p.Catalog.Overlays["local"]
	env := smoke.Env{Client: c, Spec: e, Images: refs, Observe: d.Observe, Components: overlay.Components}
	for _, name := range overlay.Components {
		component := p.Catalog.Components[name]
		objs, err := kube.Render(kube.RenderInput{Component: component, Overlay: overlay, Images: refs, Facts: kube.Facts{Environment: e.Name}})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.EnsureSecrets(ctx, component); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Apply(ctx, name, objs); err != nil {
			t.Fatal(err)
		}
		if r := check.Await(ctx, c.Ready(name, objs), nil); r.State != check.Succeeded {
			t.Fatalf("%s: %+v", name, r)
		}
		for _, s := range component.Smoke {
			for _, condition := range smoke.Checks(env)[s](name) {
				if r := condition.Probe(ctx); r.State != check.Succeeded {
					t.Errorf("%s of %s: %+v", s, name, r)
				}
			}
		}
	}
	if err := d.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	if leaks, err := d.Audit(ctx); err != nil || len(leaks) > 0 {
		t.Errorf("leaks %q, %v", leaks, err)
	}
}

func documents(t *testing.T, store *bundle.Store, digest string) (docs sign.Documents) {
	t.Helper()
	attached, err := store.Attached(digest)
	if err != nil || len(attached) != 2 {
		t.Fatalf("%d documents, %v", len(attached), err)
	}
	for _, a := range attached {
		switch a.Type() {
		case "application/vnd.cyclonedx+json":
			docs.SBOM = a.Document()
		case "application/vnd.in-toto+json":
			docs.Provenance = a.Document()
		}
	}
	return docs
}

func nodeProgram(t *testing.T, store *bundle.Store, dir string, bin catalog.Binary, sha256 string, key *sign.Key, policy sign.Policy) {
	t.Helper()
	if err := store.Link(t.Context(), dir, bin); err != nil {
		t.Fatal(err)
	}
	papers, _, err := store.Papers(bin.Name)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := sign.Seal(sha256, key, sign.Documents{SBOM: papers["application/vnd.cyclonedx+json"],
		Provenance: papers["application/vnd.in-toto+json"]})
	if err != nil {
		t.Fatal(err)
	}
	if report, err := sign.VerifyProgram(bin.Name, filepath.Join(dir, bin.Name), sealed, policy); err != nil {
		t.Errorf("%s: %+v, %v", bin.Name, report, err)
	}
}
