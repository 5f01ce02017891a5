package supply

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Import is a bundle that is to be unpacked into the cache.
type Import struct {
	File string
	// Key is a file with a public key that is trusted this once; often "".
	Key      string
	Machine  Machine
	CacheDir string
	Images   spec.Images
	Sink     ui.Sink
}

// Run unpacks the bundle, if somebody trusted signed it. step is told of it while it runs.
func (i Import) Run(ctx context.Context, step func(do func() error) error) (bundle.Result, error) {
	b, err := OpenBundle(i.File)
	if err != nil {
		return bundle.Result{}, err
	}
	defer b.Close()
	trusted, err := i.Machine.Trusts(b, i.File, i.Key, i.Images, i.Sink)
	if err != nil {
		return bundle.Result{}, err
	}
	var r bundle.Result
	err = step(func() (err error) {
		r, err = b.Import(ctx, bundle.ImportOptions{CacheDir: i.CacheDir, Platform: build.Platform(), Have: holdings(i.CacheDir), Sink: i.Sink})
		return err
	})
	if errors.Is(err, bundle.ErrPlatform) {
		err = failure.Refused{Err: err}
	}
	if err == nil && trusted {
		err = i.Machine.Trust(ctx, b.Digest())
	}
	return r, err
}

// Preview has a plan made of the bundle, without importing it: its catalogue goes into a
// folder for the time being, which release removes.
func (i Import) Preview() (l *Location, release func(), err error) {
	b, err := OpenBundle(i.File)
	if err != nil {
		return nil, nil, err
	}
	defer b.Close()
	if _, err := i.Machine.Trusts(b, i.File, i.Key, i.Images, i.Sink); err != nil {
		return nil, nil, err
	}
	if platform := b.Describe().Platform; platform != build.Platform() {
		return nil, nil, failure.Refusedf("%s is %w: %s, and this machine is %s", i.File, bundle.ErrPlatform, platform, build.Platform())
	}
	dir, err := os.MkdirTemp("", "orrery-preview-")
	if err != nil {
		return nil, nil, err
	}
	release = func() { os.RemoveAll(dir) }
	imported, err := b.Preview(dir)
	if err != nil {
		release()
		return nil, nil, err
	}
	return Preview(imported), release, nil
}

// holdings finds files of the cache by their SHA-256, to link rather than write them.
func holdings(cacheDir string) func(string) (string, bool) {
	programs := build.Programs(cacheDir)
	imported := bundle.List(cacheDir)
	return func(sum string) (string, bool) {
		if path, ok := programs[sum]; ok {
			return path, true
		}
		for _, b := range imported {
			if path, ok := b.Holds(sum); ok {
				return path, true
			}
		}
		path := filepath.Join(cacheDir, "images", "blobs", "sha256", sum)
		_, err := os.Stat(path)
		return path, err == nil
	}
}

// CachedItems are what the cache has: of imported bundles, and built here.
func CachedItems(cacheDir string) ([]bundle.Item, error) {
	var items []bundle.Item
	for _, b := range bundle.List(cacheDir) {
		items = append(items, b.Items()...)
	}
	for sum, path := range build.Programs(cacheDir) {
		if info, err := os.Stat(path); err == nil {
			items = append(items, bundle.Item{Kind: "program", Name: filepath.Base(path), Parts: []bundle.Part{{SHA256: sum, Size: info.Size()}}})
		}
	}
	entries, err := os.ReadDir(filepath.Join(cacheDir, "images", "blobs", "sha256"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			items = append(items, bundle.Item{Kind: "blob", Name: e.Name()[:min(12, len(e.Name()))], Parts: []bundle.Part{{SHA256: e.Name(), Size: info.Size()}}})
		}
	}
	slices.SortFunc(items, func(a, b bundle.Item) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
	return items, nil
}
