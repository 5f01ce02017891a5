package supply

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/bundle/bundletest"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// warnings collects what is warned of.
type warnings struct {
	mu  sync.Mutex
	all []string
}

func (w *warnings) Emit(e ui.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Type == ui.TypeWarning {
		w.all = append(w.all, e.Message)
	}
}

func (w *warnings) has(part string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.all, func(m string) bool { return strings.Contains(m, part) })
}

// small is the platform for tests, imported into a cache.
type small struct {
	bundletest.Platform
	cache, digest string
	warnings
}

func newSmall(t *testing.T) *small {
	t.Helper()
	s := &small{Platform: bundletest.New(t), cache: t.TempDir()}
	var err error
	if s.digest, err = s.Import(t.Context(), s.cache); err != nil {
		t.Fatal(err)
	}
	return s
}

// open has the supply of a location.
func (s *small) open(t *testing.T, at *Location, change func(*Options)) *Supply {
	t.Helper()
	cat, err := at.Catalog()
	if err != nil {
		t.Fatal(err)
	}
	locked, err := at.Lock()
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Location: at, Catalog: cat, Lock: locked, CacheDir: s.cache, Images: spec.Images{Sources: []string{spec.SourceBundle, spec.SourceSource}},
		Sink: &s.warnings, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if change != nil {
		change(&o)
	}
	out, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (s *small) bundled(t *testing.T) *Supply {
	t.Helper()
	return s.open(t, InBundle(s.cache, s.digest), nil)
}

func (s *small) repository(t *testing.T) *Supply {
	t.Helper()
	return s.open(t, Folder(s.Root), nil)
}

// components of the overlay "local".
func components(t *testing.T, cat *catalog.Catalog) []catalog.Component {
	t.Helper()
	all, err := cat.Select("local", nil)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (s *small) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.Root, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Out of a bundle, and out of a repository whose lock it fulfils, everything is the same and is
// had without compiling.
func TestSameFromBundleAndRepository(t *testing.T) {
	s := newSmall(t)
	for name, from := range map[string]*Supply{"bundle": s.bundled(t), "repository": s.repository(t)} {
		t.Run(name, func(t *testing.T) {
			ctx, all := t.Context(), from.All()
			if len(all.Binaries) != 4 || len(all.Built()) != 3 || len(all.Pulled()) != 0 || all.From["shop"] != "shop" || all.From["pause"] != distributed {
				t.Errorf("%+v", all)
			}
			if from.Builds() != (name == "repository") || from.CacheDir() != s.cache {
				t.Error("it builds, or not")
			}
			bin, err := from.NodeProgram("registry")
			if err != nil {
				t.Fatal(err)
			}
			if ok, err := from.Cached(ctx, bin); !ok || err != nil {
				t.Errorf("%v, %v", ok, err)
			}
			path, err := from.Binary(ctx, bin)
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(text), "echo registry of a test") {
				t.Errorf("%q, %v", text, err)
			}
			if err := from.Link(ctx, filepath.Join(t.TempDir(), "bin"), bin); err != nil {
				t.Error(err)
			}
			docs, sum, err := from.ProgramDocuments(ctx, bin)
			if err != nil || sum != s.Locked.Binaries["registry"].SHA256 || !strings.Contains(string(docs.SBOM), "CycloneDX") || len(docs.Provenance) == 0 {
				t.Errorf("%+v %s %v", docs, sum, err)
			}
			img := all.Images["shop"]
			built, err := from.Image(ctx, img)
			if err != nil || built.Digest != s.Locked.Images["shop"].Digest || from.Origin(built) != spec.SourceBundle || from.Fetched(built) {
				t.Errorf("%+v, %v, from %s", built, err, from.Origin(built))
			}
			said, err := from.Documents(ctx, img, built)
			if err != nil || !strings.Contains(string(said.SBOM), "CycloneDX") || len(said.Provenance) == 0 {
				t.Errorf("%+v, %v", said, err)
			}
			if err := from.RefuseAllDrift(ctx, all); err != nil {
				t.Error(err)
			}
			have, err := from.Describe(ctx, all)
			if err != nil || len(have.Binaries) != 4 || have.Binaries["registry"].Tree != s.Locked.Binaries["registry"].Tree {
				t.Errorf("%+v, %v", have, err)
			}
			if other := from.With(from.Catalog.For("ptp", "")); other.Builds() != from.Builds() || other.Locked != from.Locked {
				t.Error("another choice of the same catalogue has other sources")
			}
		})
	}
}

func TestOutOfBundle(t *testing.T) {
	s := newSmall(t)
	from := s.bundled(t)
	ctx := t.Context()
	bin, img := s.Catalog.Distribution.Binaries[0], from.All().Images["shop"]
	for kind, part := range map[string]string{SBOMType: "CycloneDX", ProvenanceType: "slsa.dev/provenance"} {
		if doc, err := from.Document(ctx, img, kind); err != nil || !strings.Contains(string(doc), part) {
			t.Errorf("%s of an image: %v", kind, err)
		}
		if doc, err := from.ProgramDocument(ctx, bin, kind); err != nil || !strings.Contains(string(doc), part) {
			t.Errorf("%s of a program: %v", kind, err)
		}
	}
	if _, err := from.Document(ctx, img, "text/plain"); err == nil || !strings.Contains(err.Error(), "has no text/plain of image shop") {
		t.Error(err)
	}
	if _, err := from.ProgramDocument(ctx, bin, "text/plain"); err == nil || !strings.Contains(err.Error(), "has no text/plain of program registry") {
		t.Error(err)
	}
	if in, err := from.Inspect(ctx, img); err != nil || in.Digest != s.Locked.Images["shop"].Digest {
		t.Errorf("%+v, %v", in, err)
	}
	foreign := catalog.Image{Name: "other", Version: "1", Registry: "127.0.0.1:1/other@sha256:" + strings.Repeat("0", 64)}
	if _, err := from.Inspect(ctx, foreign); err == nil || !strings.Contains(err.Error(), "not on this machine") {
		t.Error(err)
	}
	if err := from.NeedsSource("lock"); !failure.IsUsage(err) || !strings.Contains(err.Error(), "'orrery lock' reads source") {
		t.Error(err)
	}
	if err := s.repository(t).NeedsSource("lock"); err != nil {
		t.Error(err)
	}
	if _, err := from.Chart(ctx, catalog.ModuleChart{}); err == nil || !strings.Contains(err.Error(), "a bundle does not carry") {
		t.Error(err)
	}
	if _, err := from.NodeProgram("nothing"); !failure.IsUsage(err) || !strings.Contains(err.Error(), "[registry]") {
		t.Error(err)
	}
	if err := from.RefuseBuilding([]catalog.Binary{bin}, Keys{}); err != nil {
		t.Errorf("nothing is compiled out of a bundle: %v", err)
	}
	// What the bundle does not have is refused by name.
	parts := from.All()
	parts.Binaries["more"] = catalog.Binary{Name: "more"}
	parts.Images["much"] = catalog.Image{Name: "much", Version: "1", Binaries: []catalog.Binary{{Name: "more"}}}
	if err := from.RefuseAllDrift(ctx, parts); !failure.IsRefused(err) || !strings.Contains(err.Error(), "image much, program more") {
		t.Error(err)
	}
}

func TestParts(t *testing.T) {
	foreign := catalog.Image{Name: "foreign", Registry: "example.org/x@sha256:0"}
	p := Of(catalog.Distribution{Binaries: []catalog.Binary{{Name: "runc"}}}, []catalog.Component{
		{Name: "web", Images: []catalog.Image{{Name: "web", Binaries: []catalog.Binary{{Name: "a"}, {Name: "b"}}}, foreign}},
	})
	for _, c := range []struct {
		only             string
		binaries, images int
		err              string
	}{
		{"runc", 1, 0, ""},
		{"web", 2, 1, ""},
		{"web runc", 3, 1, ""},
		{"foreign", 0, 0, "--only foreign: neither"},
		{"nothing", 0, 0, "--only nothing: neither"},
	} {
		some, err := p.only(strings.Fields(c.only))
		if c.err != "" {
			if !failure.IsUsage(err) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", c.only, err)
			}
			continue
		}
		if err != nil || len(some.Binaries) != c.binaries || len(some.Images) != c.images {
			t.Errorf("%s: %+v, %v", c.only, some, err)
		}
	}
	for name, want := range map[string]string{"web": "", "foreign": "is not built here: it is pulled as example.org", "nothing": "there are: [web]"} {
		if _, err := p.Image(name); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Source that is not as locked is refused before anything is compiled.
func TestRefuseDrift(t *testing.T) {
	s := newSmall(t)
	from := s.repository(t)
	s.write(t, "apps/shop/main.go", "package main\n\nfunc main() { println() }\n")
	err := s.repository(t).RefuseAllDrift(t.Context(), from.All())
	if !failure.IsRefused(err) || !strings.Contains(err.Error(), "shop") || strings.Contains(err.Error(), "probe:") {
		t.Error(err)
	}
	if _, err := s.repository(t).Contents(t.Context(), "local", components(t, s.Catalog)); !failure.IsRefused(err) {
		t.Errorf("a bundle of it: %v", err)
	}
	// Without a lock there is nothing to compare with, which is told.
	without := s.open(t, Folder(s.Root), func(o *Options) { o.Lock = nil })
	if err := without.RefuseAllDrift(t.Context(), from.All()); err != nil || !s.has("is compared with nothing") {
		t.Errorf("%v, %v", err, s.all)
	}
}

func TestRefuseBuilding(t *testing.T) {
	s := newSmall(t)
	bins := []catalog.Binary{{Name: "b"}, {Name: "a"}}
	for _, c := range []struct {
		name    string
		sources []string
		keys    spec.Images
		want    string
	}{
		{"allowed", []string{spec.SourceSource}, spec.Images{}, ""},
		{"not from source", []string{spec.SourceBundle}, spec.Images{}, "a, b would have to be compiled, and images.sources"},
		{"another builder", []string{spec.SourceSource}, spec.Images{Builders: []string{"https://example.org"}}, "this would have to be: a, b"},
		{"another builder, warned of", []string{spec.SourceSource}, spec.Images{Builders: []string{"https://example.org"}, Verify: spec.VerifyWarn}, ""},
	} {
		from := s.open(t, Folder(s.Root), func(o *Options) { o.Images.Sources = c.sources })
		err := from.RefuseBuilding(bins, Keys{Images: c.keys})
		if (c.want == "") != (err == nil) || c.want != "" && (!failure.IsRefused(err) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A bundle made of a bundle, or of a repository with it, is the same but for its signature.
func TestContents(t *testing.T) {
	s := newSmall(t)
	first, err := bundle.Open(s.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for name, from := range map[string]*Supply{"bundle": s.bundled(t), "repository": s.repository(t)} {
		t.Run(name, func(t *testing.T) {
			c, err := from.Contents(t.Context(), "local", components(t, from.Catalog))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{"infra/native/distribution.yaml", "LICENSE", "go.mod"} {
				if !slices.Contains(c.Files, file) && (name == "repository" || file != "LICENSE" && file != "go.mod") {
					t.Errorf("without %s: %q", file, c.Files)
				}
			}
			if len(c.Programs) != 1 || len(c.ProgramDocuments) != 2 || len(c.Images) != 3 || len(c.Attached) != 6 || strings.Join(c.Components, " ") != "namespaces planets shop" {
				t.Errorf("%d programs, %d papers, %d images, %d attached, %q", len(c.Programs), len(c.ProgramDocuments), len(c.Images), len(c.Attached), c.Components)
			}
			key, err := ThisMachine(t.TempDir()).Key(t.Context(), "", spec.Images{})
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "again.orrery")
			if err := bundle.Create(t.Context(), file, c, bundle.CreateOptions{Sign: key.SignBlob, PublicKey: key.Public().PEM(), Workers: 1}); err != nil {
				t.Fatal(err)
			}
			b, err := bundle.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if b.Digest() == "" || b.Describe().Platform != first.Describe().Platform || b.Verify(key.Public().VerifyBlob) != nil {
				t.Errorf("%+v", b.Describe())
			}
		})
	}
	// Without a lock there is nothing to hold it to.
	without := s.open(t, Folder(s.Root), nil)
	without.Locked = nil
	if _, err := without.bundledLock(t.Context(), without.All()); !failure.IsRefused(err) || !strings.Contains(err.Error(), "'orrery lock' writes it") {
		t.Error(err)
	}
	// What only a registry has, and is not here, is told.
	parts := Parts{Images: map[string]catalog.Image{"foreign": {Name: "foreign", Version: "1", Registry: "127.0.0.1:1/x@sha256:" + strings.Repeat("0", 64)}}}
	var c bundle.Contents
	if err := s.repository(t).addPulled(t.Context(), parts, &c); err != nil || len(c.Images) != 0 || !s.has("the bundle goes without image foreign") {
		t.Errorf("%v, %v", err, s.all)
	}
}

// What is not regular does not get into a bundle.
func TestContentsRefuseLinks(t *testing.T) {
	s := newSmall(t)
	if err := os.Symlink("/etc/passwd", filepath.Join(s.Root, "infra", "link.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := catalogFiles(s.Catalog); err == nil || !strings.Contains(err.Error(), "is no regular file") {
		t.Error(err)
	}
}

func TestLocation(t *testing.T) {
	empty := Folder(t.TempDir())
	if _, err := empty.Catalog(); !failure.IsUsage(err) {
		t.Error(err)
	}
	if _, err := empty.Lock(); !failure.IsUsage(err) {
		t.Error(err)
	}
	gone := InBundle(t.TempDir(), "sha256:"+strings.Repeat("0", 64))
	if _, err := gone.Catalog(); !failure.IsUsage(err) || !strings.Contains(err.Error(), "--catalog DIR") {
		t.Error(err)
	}
	if _, _, err := gone.Components(); err == nil {
		t.Error("components of a bundle that is not there")
	}
	s := newSmall(t)
	if overlay, names, err := InBundle(s.cache, s.digest).Components(); overlay != "local" || len(names) != 3 || err != nil {
		t.Errorf("%s %q %v", overlay, names, err)
	}
	if overlay, names, err := Folder(s.Root).Components(); overlay != "" || names != nil || err != nil {
		t.Errorf("%s %q %v", overlay, names, err)
	}
	if err := os.Remove(filepath.Join(s.Root, lock.FileName)); err != nil {
		t.Fatal(err)
	}
	if locked, err := Folder(s.Root).Lock(); locked != nil || err != nil {
		t.Errorf("without a lock: %v, %v", locked, err)
	}
	s.write(t, lock.FileName, "{{{")
	if _, err := Folder(s.Root).Lock(); !failure.IsUsage(err) {
		t.Errorf("a damaged lock: %v", err)
	}
}

// What is used is kept; what nobody can tell is kept too.
func TestPrune(t *testing.T) {
	s := newSmall(t)
	used := func(digests ...string) func() (map[string]bool, error) {
		return func() (map[string]bool, error) {
			m := map[string]bool{}
			for _, d := range digests {
				m[d] = true
			}
			return m, nil
		}
	}
	if _, err := PruneBundles(s.cache, func() (map[string]bool, error) { return nil, os.ErrInvalid }, false); err == nil {
		t.Error("nobody knows what is used, and it was pruned")
	}
	if gone, err := PruneBundles(s.cache, used(s.digest), false); err != nil || len(gone) != 0 {
		t.Errorf("%v, %v", gone, err)
	}
	if gone, err := PruneBundles(s.cache, used(), true); err != nil || len(gone) != 1 || len(bundle.List(s.cache)) != 1 {
		t.Errorf("a dry run: %v, %v", gone, err)
	}
	if p, err := s.bundled(t).Prune(t.Context(), false); err != nil || len(p.Binaries)+len(p.Images) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := s.repository(t).Prune(t.Context(), false); err != nil || len(p.Binaries)+len(p.Images) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	if gone, err := PruneBundles(s.cache, used(), false); err != nil || len(gone) != 1 || len(bundle.List(s.cache)) != 0 {
		t.Errorf("%v, %v", gone, err)
	}
	// A lock that cannot be read says nobody what other platforms need.
	from := s.repository(t)
	s.write(t, lock.FileName, "{{{")
	if _, err := from.Prune(t.Context(), false); err == nil {
		t.Error("pruned without knowing what is locked")
	}
}

// Pulled images of the lock are kept, others go.
func TestPrunePulled(t *testing.T) {
	host, digest, _ := world(t)
	locked := &lock.Platform{Images: map[string]lock.Image{"app": {Digest: digest}}}
	s, err := testSupply(t, &maker{}, spec.Images{Sources: spec.Default().Images.Sources, Registry: host + "/acme"}, locked, ui.Discard)
	if err != nil {
		t.Fatal(err)
	}
	img := catalog.Image{Name: "app", Version: "v1"}
	s.Find(t.Context(), []catalog.Image{img}, ProbeTime*10)
	if _, err := s.Image(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		locked *lock.Platform
		gone   int
	}{{locked, 0}, {nil, 1}} {
		s.Locked = c.locked
		p := image.Pruned{}
		if err := s.prunePulled(t.Context(), Parts{}, &p, false); err != nil || len(p.Images) != c.gone {
			t.Errorf("%+v, %v", p, err)
		}
	}
}
