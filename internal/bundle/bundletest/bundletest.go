package bundletest

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/sign"
)

//go:embed small.txtar
var small []byte

// Platform is what [Write] wrote.
type Platform struct {
	// Root is the repository: infra/, orrery.lock.
	Root string
	// Bundle is the file for `orrery up --bundle`, Key the file with its public key.
	Bundle, Key string
	// Catalog and Locked are what Root holds.
	Catalog *catalog.Catalog
	Locked  lock.Platform
	// Images are those of the bundle, in a layout that is no cache's.
	Images []image.Built
}

// New is [Write] into a folder of the test's.
func New(tb testing.TB) Platform {
	tb.Helper()
	p, err := Write(tb.Context(), tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// Write makes the platform below dir. It compiles nothing and needs no network.
func Write(ctx context.Context, dir string) (p Platform, err error) {
	p = Platform{Root: filepath.Join(dir, "repository"), Bundle: filepath.Join(dir, "small"+bundle.Extension)}
	p.Key = p.Bundle + ".pub"
	var files []string
	for _, f := range txtar.Parse(small).Files {
		if err := write(filepath.Join(p.Root, f.Name), f.Data, 0o644); err != nil {
			return p, err
		}
		files = append(files, f.Name)
	}
	if p.Catalog, err = catalog.Load(p.Root); err != nil {
		return p, fmt.Errorf("the platform for tests: %w", err)
	}
	m := maker{ctx: ctx, dir: filepath.Join(dir, "made"),
		locked: lock.Platform{Binaries: map[string]lock.Binary{}, Images: map[string]lock.Image{}}}
	if m.builder, err = image.NewBuilder(image.Options{CacheDir: filepath.Join(dir, "cache-of-describing"), RepoRoot: p.Root}); err != nil {
		return p, err
	}
	for _, bin := range p.Catalog.Distribution.Files() {
		if err := m.program(bin); err != nil {
			return p, fmt.Errorf("program %s: %w", bin.Name, err)
		}
	}
	images := []catalog.Image{p.Catalog.Distribution.Sandbox}
	var components []string
	for name, c := range p.Catalog.Components {
		images, components = append(images, c.Images...), append(components, name)
	}
	slices.Sort(components)
	for _, img := range images {
		if err := m.image(img); err != nil {
			return p, fmt.Errorf("image %s: %w", img.Name, err)
		}
	}
	p.Images, p.Locked = m.images, m.locked
	l := lock.Lock{APIVersion: lock.APIVersion, Kind: lock.Kind, Platforms: map[string]lock.Platform{image.Platform(): m.locked}}
	locked, err := l.Format()
	if err != nil {
		return p, err
	}
	if err := write(filepath.Join(p.Root, lock.FileName), locked, 0o644); err != nil {
		return p, err
	}
	key, err := newKey(ctx, filepath.Join(dir, "key"))
	if err != nil {
		return p, err
	}
	if err := write(p.Key, key.Public().PEM(), 0o644); err != nil {
		return p, err
	}
	contents := bundle.Contents{
		Platform: image.Platform(), Overlay: "local", Components: components, Root: p.Root, Files: files, Lock: locked,
		Programs: m.programs, Papers: m.papers, Images: m.images, Attached: m.attached,
	}
	return p, bundle.Create(ctx, p.Bundle, contents, bundle.CreateOptions{Sign: key.SignBlob, PublicKey: key.Public().PEM(), Workers: 1})
}

func newKey(ctx context.Context, dir string) (*sign.Key, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return sign.EnsureKey(ctx, dir, sign.Passwords{Given: "of a test"})
}

// Import unpacks the bundle into a cache, so that `images.sources: [bundle]` finds all of it
// there. It returns the bundle's digest.
func (p Platform) Import(ctx context.Context, cacheDir string) (string, error) {
	b, err := bundle.Open(p.Bundle)
	if err != nil {
		return "", err
	}
	defer b.Close()
	nothing := func(string) (string, bool) { return "", false }
	r, err := b.Import(ctx, bundle.ImportOptions{CacheDir: cacheDir, Platform: image.Platform(), Have: nothing})
	return r.Digest, err
}

// Environment is an orrery.yaml for the platform: one server, one agent, on that driver.
func Environment(name, driver string, ports ...int) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: orrery.dev/v1alpha1
kind: Environment
name: %s
driver: %s
servers: 1
agents: 1
network: {plugin: ptp}
images: {sources: [bundle]}
`, name, driver)
	if len(ports) == 2 {
		fmt.Fprintf(&b, "ports: {api: %d, registry: %d}\n", ports[0], ports[1])
	}
	return []byte(b.String())
}

func write(path string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, mode)
}
