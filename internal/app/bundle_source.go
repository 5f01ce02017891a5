package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/engine"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/ui"
)

// remember has later steps of this invocation take catalogue, lock and images from the
// bundle that an environment was made from, unless another catalogue was asked for.
func (o *options) remember(digest string) {
	if o.bundle == "" && o.catalog == "" {
		o.bundle = digest
	}
}

// fromBundle: nothing is built, and no repository is looked at.
func (o *options) fromBundle() bool { return o.bundle != "" && o.catalog == "" }

func (o *options) imported() (*bundle.Imported, error) {
	if o.preview != nil {
		return o.preview, nil
	}
	b, err := bundle.OpenImported(cacheRoot(), o.bundle)
	if errors.Is(err, bundle.ErrNotImported) {
		err = fmt.Errorf("%w; or use a repository: --catalog DIR", err)
	}
	return b, err
}

// componentsWanted are those of orrery.yaml or, when it names none, those that a bundle was
// made with, as far as they are for this environment's network. None: all of the overlay.
func (s *session) componentsWanted(cat *catalog.Catalog) []string {
	if len(s.spec.Components) > 0 || !s.fromBundle() {
		return s.spec.Components
	}
	b, err := s.imported()
	if err != nil {
		return nil // loading the catalogue has said it already
	}
	if overlay, names := b.Components(); overlay == s.spec.Overlay {
		return cat.Here(names)
	}
	return nil
}

// refuseMissing refuses an environment of which the bundle has only a part.
func (p *platform) refuseMissing(ctx context.Context) error {
	var missing []string
	for name, bin := range p.binaries {
		if ok, err := p.supply.Cached(ctx, bin); err != nil {
			return err
		} else if !ok {
			missing = append(missing, "program "+name)
		}
	}
	for name, img := range p.images {
		if img.Registry != "" {
			continue // its components are skipped, with the reason
		}
		if _, ok, err := p.supply.CachedImage(ctx, img); err != nil {
			return err
		} else if !ok {
			missing = append(missing, "image "+name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return refusedError{fmt.Errorf("bundle %s does not have, or has no more: %s\n  import it again (orrery bundle import FILE), choose other components in orrery.yaml, or have a bundle made with them (orrery bundle create --components …)",
		p.bundle, strings.Join(missing, ", "))}
}

// importBundle has a bundle unpacked, if somebody trusted signed it, and used from here on.
func (o *options) importBundle(ctx context.Context, file, keyFile string, sink ui.Sink) (bundle.Result, error) {
	b, err := openBundle(file)
	if err != nil {
		return bundle.Result{}, err
	}
	defer b.Close()
	want, err := o.loadSpec()
	if err != nil {
		return bundle.Result{}, usageError{err}
	}
	trusted, err := trustBundle(b, file, keyFile, want.Images, sink)
	if err != nil {
		return bundle.Result{}, err
	}
	var r bundle.Result
	err = stepOf(sink, "bundle/import", func() (err error) {
		r, err = b.Import(ctx, bundle.ImportOptions{CacheDir: cacheRoot(), Platform: build.Platform(), Have: holdings(), Sink: sink})
		return err
	})
	if errors.Is(err, bundle.ErrPlatform) {
		err = refusedError{err}
	}
	if err == nil && trusted {
		err = noteTrusted(ctx, b.Digest())
	}
	return r, err
}

// useBundle imports the bundle that up was given, and has all else come from it.
func (u *upOptions) useBundle(ctx context.Context, sink ui.Sink) error {
	if u.catalog != "" {
		return usagef("--bundle and --catalog: the catalogue is the bundle's; give one of them")
	}
	if u.dryRun {
		return u.previewBundle(sink)
	}
	for {
		r, err := u.importBundle(ctx, u.bundleFile, u.bundleKey, sink)
		if err != nil {
			return err
		}
		// Until the environment's state names the bundle, only this keeps it from being pruned.
		release, err := bundle.Hold(ctx, cacheRoot(), r.Digest)
		if errors.Is(err, bundle.ErrNotImported) && ctx.Err() == nil {
			continue // pruned in the moment between
		}
		if err != nil {
			return err
		}
		u.release, u.bundle = release, r.Digest
		return nil
	}
}

// previewBundle has a plan made of the bundle, without importing it: its catalogue goes into
// a folder for the time being.
func (u *upOptions) previewBundle(sink ui.Sink) error {
	b, err := openBundle(u.bundleFile)
	if err != nil {
		return err
	}
	defer b.Close()
	want, err := u.loadSpec()
	if err != nil {
		return usageError{err}
	}
	if _, err := trustBundle(b, u.bundleFile, u.bundleKey, want.Images, sink); err != nil {
		return err
	}
	if platform := b.Describe().Platform; platform != build.Platform() {
		return refusedError{fmt.Errorf("%s is %w: %s, and this machine is %s", u.bundleFile, bundle.ErrPlatform, platform, build.Platform())}
	}
	dir, err := os.MkdirTemp("", "orrery-preview-")
	if err != nil {
		return err
	}
	u.release = func() { os.RemoveAll(dir) }
	if u.preview, err = b.Preview(dir); err != nil {
		return err
	}
	u.bundle = b.Digest()
	return nil
}

func openBundle(file string) (*bundle.File, error) {
	b, err := bundle.Open(file)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, bundle.ErrNotBundle):
		return nil, usageError{err}
	case errors.Is(err, bundle.ErrNewer):
		return nil, refusedError{err}
	}
	return b, err
}

// holdings finds files of the cache by their SHA-256, to link rather than write them.
func holdings() func(string) (string, bool) {
	programs := build.Programs(cacheRoot())
	imported := bundle.List(cacheRoot())
	return func(sum string) (string, bool) {
		if path, ok := programs[sum]; ok {
			return path, true
		}
		for _, b := range imported {
			if path, ok := b.Holds(sum); ok {
				return path, true
			}
		}
		path := filepath.Join(cacheRoot(), "images", "blobs", "sha256", sum)
		_, err := os.Stat(path)
		return path, err == nil
	}
}

// carriedDocuments are those that came with an image in a bundle. The bundle's signature was
// checked when it was imported, or the lock names the image's digest.
func carriedDocuments(from supplier, built image.Built) (docs sign.Documents, err error) {
	store, ok := from.(*bundle.Store)
	if all, several := from.(sources); several {
		store, ok = all[0].(*bundle.Store)
	}
	if !ok {
		return docs, nil
	}
	attached, err := store.Attached(built.Digest)
	if err != nil {
		return docs, err
	}
	for _, a := range attached {
		switch data := a.Document(); a.Type() {
		case sbomType:
			docs.SBOM = data
		case provenanceType:
			docs.Provenance = data
		}
	}
	return docs, nil
}

// printCarried prints a document that came with an image in a bundle.
func (w *workshop) printCarried(out io.Writer, name, kind string) error {
	img, err := w.image(name)
	if err != nil {
		return err
	}
	attached, err := w.store.Attached(w.locked.Images[img.Name].Digest)
	if err != nil {
		return err
	}
	for _, a := range attached {
		if data := a.Document(); a.Type() == kind && data != nil {
			_, err := out.Write(data)
			return err
		}
	}
	return fmt.Errorf("the bundle has no %s of image %s", kind, name)
}

// pruneBundles removes imported bundles that no environment was made from. When the state
// of one cannot be read, nobody can say what it needs.
func pruneBundles(dryRun bool) ([]bundle.Pruned, error) {
	if _, err := bundlesUsed(); err != nil {
		return nil, err
	}
	// Asked again for each: environments are made meanwhile.
	keep := func(digest string) bool {
		used, err := bundlesUsed()
		return err != nil || used[digest]
	}
	return bundle.Prune(cacheRoot(), keep, dryRun)
}

// bundlesUsed are the bundles that environments were made from, by digest.
func bundlesUsed() (map[string]bool, error) {
	used := map[string]bool{}
	entries, err := os.ReadDir(stateRoot())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		kept, err := engine.LoadState(filepath.Join(stateRoot(), e.Name()))
		if err != nil && !errors.Is(err, engine.ErrNoState) {
			return nil, fmt.Errorf("bundles are kept, because it cannot be told which environment %s needs: %w", e.Name(), err)
		}
		used[kept.Bundle] = true
	}
	return used, nil
}

// catalogFiles are what a bundle takes of a repository: all of infra/, and go.mod and
// go.sum of every module that the catalogue names.
func catalogFiles(cat *catalog.Catalog) ([]string, error) {
	var files []string
	add := func(path string) error {
		rel, err := filepath.Rel(cat.Root, path)
		if err == nil && !slices.Contains(files, filepath.ToSlash(rel)) {
			files = append(files, filepath.ToSlash(rel))
		}
		return err
	}
	err := filepath.WalkDir(filepath.Join(cat.Root, "infra"), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() || strings.HasPrefix(d.Name(), "."):
			return nil
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is no regular file: a bundle does not take it", path)
		}
		return add(path)
	})
	if err != nil {
		return nil, err
	}
	modules := map[string]bool{cat.Root: true}
	for _, bin := range allBinaries(cat) {
		if bin.Dir != "" { // a program of Debian's is of no module
			modules[bin.Dir] = true
		}
	}
	for dir := range modules {
		for _, name := range []string{"go.mod", "go.sum"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				continue
			}
			if err := add(filepath.Join(dir, name)); err != nil {
				return nil, err
			}
		}
	}
	if _, err := os.Stat(filepath.Join(cat.Root, "LICENSE")); err == nil {
		files = append(files, "LICENSE")
	}
	slices.Sort(files)
	return files, nil
}

// allBinaries are those of the node distribution and of all images.
func allBinaries(cat *catalog.Catalog) []catalog.Binary {
	all := slices.Concat(cat.Distribution.Everything().Files(), cat.Distribution.Sandbox.Binaries)
	for _, c := range cat.Components {
		for _, img := range c.Images {
			all = append(all, img.Binaries...)
		}
	}
	return all
}
