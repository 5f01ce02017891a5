package supply

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/sbom"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
)

// step runs what it is told of.
func step(do func() error) error { return do() }

// Nobody's bundle is imported until somebody says whose key it is; then that bundle stays
// trusted, to the byte, until it is taken back.
func TestTrust(t *testing.T) {
	s := newSmall(t)
	machine := ThisMachine(t.TempDir())
	run := func(change func(*Import)) error {
		t.Helper()
		i := Import{File: s.Bundle, Machine: machine, CacheDir: s.cache, Sink: &s.warnings}
		if change != nil {
			change(&i)
		}
		_, err := i.Run(t.Context(), step)
		return err
	}
	refused := func(when string) {
		t.Helper()
		if err := run(nil); !failure.IsRefused(err) || !strings.Contains(err.Error(), "which nobody here trusts") {
			t.Errorf("%s: %v", when, err)
		}
	}
	refused("at first")
	if _, _, err := (Import{File: s.Bundle, Machine: machine, Sink: &s.warnings}).Preview(); !failure.IsRefused(err) {
		t.Errorf("a preview: %v", err)
	}
	if err := run(func(i *Import) { i.Images.Verify = spec.VerifyWarn }); err != nil || !s.has("is used, although its key") {
		t.Errorf("warned of: %v, %v", err, s.all)
	}
	refused("after it was only warned of")
	if err := run(func(i *Import) { i.Key = filepath.Join(s.Root, "go.mod") }); !failure.IsUsage(err) {
		t.Errorf("no key: %v", err)
	}
	if err := run(func(i *Import) { i.Images.TrustedKeys = []string{s.Key} }); err != nil {
		t.Errorf("a trusted key: %v", err)
	}
	if err := run(nil); err != nil {
		t.Errorf("the same bundle again: %v", err)
	}
	gone, err := machine.Distrust(t.Context(), []string{s.digest, "sha256:0"})
	if err != nil || len(gone) != 1 || gone[0] != s.digest {
		t.Errorf("%q, %v", gone, err)
	}
	refused("after it was distrusted")
	if err := run(func(i *Import) { i.Key = s.Key }); err != nil {
		t.Errorf("a key that is given: %v", err)
	}
	at, release, err := (Import{File: s.Bundle, Machine: machine, Sink: &s.warnings}).Preview()
	if err != nil {
		t.Fatal(err)
	}
	root, err := at.Root()
	if err != nil || at.Bundle() != s.digest {
		t.Errorf("%s, %v", at.Bundle(), err)
	}
	if c, err := at.Catalog(); err != nil || len(c.Components) != 3 {
		t.Error(err)
	}
	release()
	if _, err := os.Stat(root); !os.IsNotExist(err) {
		t.Errorf("the preview is left: %v", err)
	}
	// A list that others can write to is no list.
	if err := os.Chmod(machine.trustedFile(), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := run(nil); !failure.IsRefused(err) || !strings.Contains(err.Error(), "can be written to by others") {
		t.Error(err)
	}
}

// A bundle that this machine signed is trusted by its key.
func TestOwnBundle(t *testing.T) {
	t.Setenv(passwordVariable, "x")
	s := newSmall(t)
	machine := ThisMachine(t.TempDir())
	key, err := machine.Key(t.Context(), "", spec.Images{})
	if err != nil {
		t.Fatal(err)
	}
	from := s.bundled(t)
	c, err := from.Contents(t.Context(), "local", components(t, from.Catalog))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "own.orrery")
	if err := bundle.Create(t.Context(), file, c, bundle.CreateOptions{Sign: key.SignBlob, PublicKey: key.Public().PEM(), Workers: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := (Import{File: file, Machine: machine, CacheDir: t.TempDir(), Sink: &s.warnings}).Run(t.Context(), step); err != nil {
		t.Error(err)
	}
	again, err := machine.Key(t.Context(), filepath.Join(string(machine), sign.PrivateFile), spec.Images{})
	if err != nil || again.Public().Fingerprint() != key.Public().Fingerprint() {
		t.Errorf("the key by its file: %v", err)
	}
	for _, name := range []string{"key.pem", filepath.Join(t.TempDir(), sign.PrivateFile)} {
		if _, err := machine.Key(t.Context(), name, spec.Images{}); !failure.IsUsage(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOpenBundle(t *testing.T) {
	s := newSmall(t)
	for _, name := range []string{filepath.Join(s.Root, "nothing"), filepath.Join(s.Root, "go.mod")} {
		if _, err := OpenBundle(name); !failure.IsUsage(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the cache has is found by its digest, and is all there is.
func TestHoldings(t *testing.T) {
	s := newSmall(t)
	have := holdings(s.cache)
	if path, ok := have(s.Locked.Binaries["registry"].SHA256); !ok || !strings.HasPrefix(path, s.cache) {
		t.Errorf("%q, %v", path, ok)
	}
	if _, ok := have(strings.Repeat("0", 64)); ok {
		t.Error("it has what nobody made")
	}
	blobs := filepath.Join(s.cache, "images", "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	sum := strings.Repeat("a", 64)
	if err := os.WriteFile(filepath.Join(blobs, sum), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, ok := have(sum); !ok {
		t.Error("a blob of the cache is not found")
	}
	items, err := CachedItems(s.cache)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, i := range items {
		kinds[i.Kind]++
	}
	if kinds["program"] != 1 || kinds["blob"] != 1 {
		t.Errorf("%v", kinds)
	}
}

func TestKeys(t *testing.T) {
	t.Setenv(passwordVariable, "x")
	s := newSmall(t)
	keys := Keys{Dir: filepath.Join(t.TempDir(), "signing"), Images: spec.Images{TrustedKeys: []string{s.Key}}}
	count := func(want int) {
		t.Helper()
		if all, err := keys.Trusted(); err != nil || len(all) != want {
			t.Errorf("%d keys, want %d, %v", len(all), want, err)
		}
	}
	count(1)
	own, err := keys.Ensure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := keys.Ensure(t.Context()); err != nil || again.Public().Fingerprint() != own.Public().Fingerprint() {
		t.Errorf("another key: %v", err)
	}
	count(2)
	policy, err := keys.Policy(&s.Locked)
	if err != nil || len(policy.Builders) != 1 || policy.Builders[0] != sbom.LocalBuilder || policy.Locked != &s.Locked {
		t.Errorf("%+v, %v", policy, err)
	}
	keys.Images.TrustedKeys = []string{filepath.Join(s.Root, "go.mod")}
	if _, err := keys.Trusted(); !failure.IsUsage(err) || !strings.Contains(err.Error(), "images.trustedKeys: ") {
		t.Error(err)
	}
}
