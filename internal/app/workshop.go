package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/ui"
)

// workshop is the whole catalogue with the builder: for verbs that need no environment.
type workshop struct {
	catalog  *catalog.Catalog
	builder  *image.Builder
	binaries map[string]catalog.Binary // of the node distribution and of images
	images   map[string]catalog.Image
	source   map[string]string // image name → component, or "distribution"
}

// watchedWorkshop is a workshop whose builds the person watches; the caller closes the
// renderer.
func (o *options) watchedWorkshop() (*workshop, ui.Renderer, error) {
	sink, err := o.renderer()
	if err != nil {
		return nil, nil, err
	}
	w, err := o.workshop(sink)
	if err != nil {
		return nil, nil, errors.Join(err, sink.Close())
	}
	return w, sink, nil
}

func (o *options) workshop(sink ui.Sink) (*workshop, error) {
	cat, err := o.loadCatalog()
	if err != nil {
		return nil, err
	}
	b, err := image.NewBuilder(image.Options{CacheDir: cacheRoot(), RepoRoot: cat.Root, Sink: sink, Log: o.logger()})
	if err != nil {
		return nil, err
	}
	w := &workshop{
		catalog: cat, builder: b,
		binaries: map[string]catalog.Binary{}, images: map[string]catalog.Image{}, source: map[string]string{},
	}
	for _, bin := range slices.Concat(cat.Distribution.Binaries, cat.Distribution.CNI) {
		w.binaries[bin.Name] = bin
	}
	add := func(img catalog.Image, from string) {
		w.images[img.Name], w.source[img.Name] = img, from
		for _, bin := range img.Binaries {
			w.binaries[bin.Name] = bin
		}
	}
	add(cat.Distribution.Sandbox, "distribution")
	for _, name := range slices.Sorted(maps.Keys(cat.Components)) {
		for _, img := range cat.Components[name].Images {
			add(img, name)
		}
	}
	return w, nil
}

func (w *workshop) lockFile() string { return filepath.Join(w.catalog.Root, lock.FileName) }

// image finds an image of the catalogue by name.
func (w *workshop) image(name string) (catalog.Image, error) {
	img, ok := w.images[name]
	if !ok {
		return img, usagef("there is no image %q in the catalogue; there are: %v", name, slices.Sorted(maps.Keys(w.images)))
	}
	return img, nil
}

// describe says what the given binaries and images are made from, and their digests as
// far as they are built. It builds nothing.
func describe(ctx context.Context, b *image.Builder, binaries map[string]catalog.Binary, images map[string]catalog.Image) (lock.Platform, error) {
	have := lock.Platform{Binaries: map[string]lock.Binary{}, Images: map[string]lock.Image{}}
	var mu sync.Mutex
	var g errgroup.Group
	for name, bin := range binaries {
		g.Go(func() error {
			d, err := b.Describe(ctx, bin)
			mu.Lock()
			defer mu.Unlock()
			have.Binaries[name] = d
			return err
		})
	}
	for name, img := range images {
		g.Go(func() error {
			d, err := b.DescribeImage(ctx, img)
			mu.Lock()
			defer mu.Unlock()
			have.Images[name] = d
			return err
		})
	}
	return have, g.Wait()
}

// loadLocked reads what root's lock has for this platform; nil when there is no lock, or
// when it has nothing for this platform.
func loadLocked(root string) (*lock.Platform, error) {
	l, err := lock.Load(filepath.Join(root, lock.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, usageError{err}
	}
	p, ok := l.Platforms[image.Platform()]
	if !ok {
		return nil, nil
	}
	return &p, nil
}

// refuseDrift refuses to use binaries and images that are not the locked ones. Those not
// built yet are judged by what they will be made from, before hours of compiling.
func (p *platform) refuseDrift(ctx context.Context, binaries map[string]catalog.Binary, images map[string]catalog.Image) error {
	if p.locked == nil || p.builder == nil { // what is not built here was found by its digest
		return nil
	}
	have, err := describe(ctx, p.builder, binaries, images)
	if err != nil {
		return err
	}
	drift, notes := lock.Check(*p.locked, have, false)
	for _, n := range notes {
		p.sink.Emit(ui.Event{Type: ui.TypeWarning, Phase: "build", Message: n})
	}
	if len(drift) == 0 {
		return nil
	}
	return refusedError{fmt.Errorf("%s does not allow it:\n%s", filepath.Join(p.catalog.Root, lock.FileName), lock.Explain(drift))}
}

// refuseAllDrift is refuseDrift for everything that the environment is made of.
func (p *platform) refuseAllDrift(ctx context.Context) error {
	if p.locked == nil && p.builder != nil {
		p.sink.Emit(ui.Event{Type: ui.TypeWarning, Phase: "build", Message: fmt.Sprintf(
			"%s has nothing for %s: what is built is compared with nothing ('orrery lock' writes it)", filepath.Join(p.catalog.Root, lock.FileName), image.Platform())})
	}
	return p.refuseDrift(ctx, p.binaries, p.images)
}
