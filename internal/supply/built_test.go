package supply

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// compiled is a supply that compiles, with a cache of its own but for what the go command keeps.
func compiled(t *testing.T, root string, locked *lock.Platform) *Supply {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE").Output()
	if err != nil {
		t.Skip("there is no go to compile with")
	}
	cache := t.TempDir()
	if err := os.Symlink(strings.TrimSpace(string(out)), filepath.Join(cache, "go-build")); err != nil {
		t.Fatal(err)
	}
	at := Folder(root)
	cat, err := at.Catalog()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{
		Location: at, Catalog: cat, Lock: locked, CacheDir: cache, Images: spec.Images{Sources: []string{spec.SourceSource}},
		Sink: ui.Discard, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What is compiled is locked, and what is locked is what is compiled: with documents about each
// part, and a bundle that has all of it.
func TestLockAndDocuments(t *testing.T) {
	root := newSmall(t).Root
	if err := os.Remove(filepath.Join(root, lock.FileName)); err != nil {
		t.Fatal(err)
	}
	s := compiled(t, root, nil)
	var l lock.Lock
	_, have, err := s.LockInto(t.Context(), LockTarget{}, &l)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range have.Binaries {
		if len(b.SHA256) != 64 {
			t.Errorf("binary %s: %+v", name, b)
		}
	}
	if len(have.Binaries) != 4 || len(have.Images) != 3 || have.Images["shop"].SBOM == "" || have.Binaries["registry"].SBOM == "" {
		t.Errorf("%d binaries, %d images: %+v", len(have.Binaries), len(have.Images), have)
	}
	if again, elsewhere, err := s.CompareLock(t.Context(), l); err != nil || len(elsewhere) > 0 || again.Images["shop"].Digest != have.Images["shop"].Digest {
		t.Errorf("compared: %v, %v", elsewhere, err)
	}
	testLockOnly(t, root, l)
	s.Locked = &have
	testDocuments(t, s)
	testBundle(t, s)
}

// Where nothing is built, only what is named is; all else stays as it is locked, or is not passed over.
func testLockOnly(t *testing.T, root string, l lock.Lock) {
	t.Helper()
	s := compiled(t, root, nil)
	was := l.Platforms[s.builder.Platform()]
	_, have, err := s.LockInto(t.Context(), LockTarget{Only: []string{"pause"}}, &l)
	if err != nil || !reflect.DeepEqual(have, was) {
		t.Errorf("%v, %+v; want %+v", err, have, was)
	}
	if built, err := s.Describe(t.Context(), s.All()); err != nil || built.Binaries["shop"].SHA256 != "" {
		t.Errorf("more than that was built: %v, %+v", err, built.Binaries["shop"])
	}
	drifted := was
	drifted.Binaries = maps.Clone(was.Binaries)
	registry := was.Binaries["registry"]
	registry.Flags = []string{"other"}
	drifted.Binaries["registry"] = registry
	l.Platforms[s.builder.Platform()] = drifted
	if _, _, err = s.LockInto(t.Context(), LockTarget{Only: []string{"pause"}}, &l); err == nil || !strings.Contains(err.Error(), "not as locked either: binary registry") {
		t.Errorf("what changed beside it: %v", err)
	}
}

func testDocuments(t *testing.T, s *Supply) {
	t.Helper()
	img, err := s.All().Image("shop")
	if err != nil {
		t.Fatal(err)
	}
	bin, err := s.NodeProgram("registry")
	if err != nil {
		t.Fatal(err)
	}
	for what, doc := range map[string]func(context.Context) ([]byte, error){
		"bill of an image":    func(ctx context.Context) ([]byte, error) { return s.Document(ctx, img, SBOMType) },
		"origin of an image":  func(ctx context.Context) ([]byte, error) { return s.Document(ctx, img, ProvenanceType) },
		"bill of a program":   func(ctx context.Context) ([]byte, error) { return s.ProgramDocument(ctx, bin, SBOMType) },
		"origin of a program": func(ctx context.Context) ([]byte, error) { return s.ProgramDocument(ctx, bin, ProvenanceType) },
	} {
		first, err := doc(t.Context())
		second, err2 := doc(t.Context())
		if err != nil || err2 != nil || !json.Valid(first) || string(first) != string(second) {
			t.Errorf("%s: %v, %v, %s", what, err, err2, first)
		}
	}
	in, err := s.Inspect(t.Context(), img)
	if err != nil || len(in.Programs) != 1 || !strings.HasSuffix(in.Programs[0].Package, "/shop") {
		t.Errorf("inspected: %+v, %v", in, err)
	}
	// A licence that the policy does not allow is named.
	policy := filepath.Join(s.Catalog.Root, licencePolicy)
	before, err := os.ReadFile(policy)
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{strings.Replace(string(before), "example.org/small", "example.org/other", 1), string(before)} {
		if err := os.WriteFile(policy, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := s.SBOM(t.Context(), img); (err == nil) != (content == string(before)) || err != nil && !strings.Contains(err.Error(), licencePolicy) {
			t.Errorf("%v, with\n%s", err, content)
		}
	}
}

func testBundle(t *testing.T, s *Supply) {
	t.Helper()
	components, err := s.Catalog.Select("local", nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Contents(t.Context(), "local", components)
	if err != nil {
		t.Fatal(err)
	}
	named := func(b image.Built) bool { return b.Name == "shop" }
	if len(c.Programs) != 1 || !slices.ContainsFunc(c.Images, named) || len(c.ProgramDocuments) != 2 || !slices.Contains(c.Files, "infra/licences.yaml") {
		t.Errorf("%d programs, %d images, %d documents of programs, files %v", len(c.Programs), len(c.Images), len(c.ProgramDocuments), c.Files)
	}
	if pruned, err := s.Prune(t.Context(), true); err != nil || len(pruned.Binaries) > 0 || len(pruned.Images) > 0 {
		t.Errorf("what is of the catalogue would go: %+v, %v", pruned, err)
	}
}

// The second build, which another process makes, comes to the same.
func TestRebuild(t *testing.T) {
	root := newSmall(t).Root
	first, second := compiled(t, root, nil), compiled(t, root, nil)
	cat := second.Catalog
	for name, program := range map[string]bool{"registry": true, "shop": false} {
		var digests []string
		for _, s := range []*Supply{first, second} {
			r, err := Rebuild(t.Context(), cat, name, program, s.CacheDir(), ui.Discard, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			digests = append(digests, r.Digest)
		}
		if digests[0] != digests[1] || !strings.HasPrefix(digests[0], "sha256:") {
			t.Errorf("%s: %v", name, digests)
		}
	}
	if _, err := Rebuild(t.Context(), cat, "nothing", false, first.CacheDir(), ui.Discard, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("an image that there is none of was built")
	}
}
