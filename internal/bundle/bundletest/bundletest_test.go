package bundletest_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/bundle/bundletest"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
)

// All that an environment needs is in the bundle, as the lock of the repository says.
func TestImport(t *testing.T) {
	p := bundletest.New(t)
	b, err := bundle.Open(p.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	pem, err := os.ReadFile(p.Key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := sign.ParsePublicKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(key.VerifyBlob); err != nil {
		t.Error(err)
	}
	cache := t.TempDir()
	digest, err := p.Import(t.Context(), cache)
	if err != nil {
		t.Fatal(err)
	}
	imported, err := bundle.OpenImported(cache, digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := catalog.Load(imported.CatalogDir()); err != nil {
		t.Errorf("the bundle's own catalogue: %v", err)
	}
	store := bundle.NewStore(p.Locked, imported)
	for _, bin := range p.Catalog.Distribution.Files() {
		if ok, err := store.Cached(t.Context(), bin); !ok || err != nil {
			t.Errorf("program %s: %v", bin.Name, err)
		}
		if err := store.Link(t.Context(), filepath.Join(t.TempDir(), "bin"), bin); err != nil {
			t.Error(err)
		}
		if papers, ok, err := store.Papers(bin.Name); len(papers) != 2 || !ok || err != nil {
			t.Errorf("%d papers of %s, %v", len(papers), bin.Name, err)
		}
	}
	for _, img := range images(p) {
		if _, ok, err := store.CachedImage(t.Context(), img); !ok || err != nil {
			t.Errorf("image %s: %v", img.Name, err)
		}
	}
}

func images(p bundletest.Platform) []catalog.Image {
	all := []catalog.Image{p.Catalog.Distribution.Sandbox}
	for _, c := range p.Catalog.Components {
		all = append(all, c.Images...)
	}
	return all
}

// Both overlays render, and what they render is pinned.
func TestRender(t *testing.T) {
	p := bundletest.New(t)
	refs := map[string]string{}
	for _, b := range p.Images {
		refs[b.Name] = b.Reference()
	}
	for _, overlay := range p.Catalog.Overlays {
		for _, name := range overlay.Components {
			objs, err := kube.Render(kube.RenderInput{Component: p.Catalog.Components[name], Overlay: overlay, Images: refs,
				Facts: kube.Facts{Environment: "e"}})
			if err != nil || len(objs) == 0 {
				t.Errorf("%s of %s: %d objects, %v", name, overlay.Name, len(objs), err)
			}
		}
	}
}

func TestEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "orrery.yaml")
	if err := os.WriteFile(file, bundletest.Environment("small", "native", 20001, 20002), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := spec.Load(file)
	if err != nil || e.Validate() != nil || len(e.Topology()) != 2 {
		t.Errorf("%+v, %v", e, errors.Join(err, e.Validate()))
	}
}

// What the builder says of the repository is what is locked: a repository whose lock drifts
// would not be deployed.
func TestNoDrift(t *testing.T) {
	p := bundletest.New(t)
	b, err := image.NewBuilder(image.Options{CacheDir: t.TempDir(), RepoRoot: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	for _, bin := range p.Catalog.Distribution.Files() {
		got, err := b.Describe(t.Context(), bin)
		want := p.Locked.Binaries[bin.Name]
		if err != nil || got.Pins != want.Pins || got.Tree != want.Tree || got.SHA256 != "" {
			t.Errorf("%+v, %v; locked %+v", got, err, want)
		}
	}
}
