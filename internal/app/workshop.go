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

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// workshop is the whole catalogue with the builder: for verbs that need no environment.
type workshop struct {
	catalog  *catalog.Catalog
	supply   supplier
	builder  *image.Builder            // what supply builds with; nil when nothing is built here
	store    *bundle.Store             // what supply is when the catalogue is a bundle's; often nil
	locked   *lock.Platform            // nil when there is no lock, or lockErr
	lockErr  error                     // why the lock cannot be read
	binaries map[string]catalog.Binary // of the node distribution and of images
	images   map[string]catalog.Image  // that are built here
	pulled   map[string]catalog.Image  // that only a registry has
	source   map[string]string         // image name → component, or "distribution"
}

// watchedWorkshop is a workshop whose builds the person watches; the caller closes the
// renderer.
func (o *options) watchedWorkshop() (*workshop, ui.Renderer, error) {
	sink := o.renderer()
	w, err := o.workshop(sink)
	if err != nil {
		return nil, nil, errors.Join(err, sink.Close())
	}
	return w, sink, nil
}

func (o *options) workshop(sink ui.Sink) (*workshop, error) {
	if _, err := o.root(); err != nil && o.catalog == "" {
		// Outside of a repository it is the environment's own catalogue, if it has one.
		_, _ = o.attach(ui.Discard)
	}
	cat, err := o.loadCatalog()
	if err != nil {
		return nil, err
	}
	locked, lockErr := loadLocked(cat.Root) // 'orrery lock' writes a bad one anew
	b, supply, err := o.suppliers(cat.Root, locked, allowedSources(o), sink)
	if err != nil {
		return nil, err
	}
	w := &workshop{
		catalog: cat, supply: supply, builder: b, locked: locked, lockErr: lockErr,
		binaries: map[string]catalog.Binary{}, images: map[string]catalog.Image{}, pulled: map[string]catalog.Image{}, source: map[string]string{},
	}
	w.store, _ = supply.(*bundle.Store)
	missing := func(name string) bool { return w.store != nil && locked.Images[name].Digest == "" }
	for _, bin := range cat.Distribution.Everything().Files() {
		w.binaries[bin.Name] = bin
	}
	add := func(img catalog.Image, from string) {
		if img.Registry != "" {
			w.pulled[img.Name], w.source[img.Name] = img, from
			return
		}
		if missing(img.Name) { // of a component that was left out when the bundle was made
			return
		}
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
	if pulled, is := w.pulled[name]; is {
		return img, usagef("image %s is not built here: it is pulled as %s", name, pulled.Registry)
	}
	if !ok {
		return img, usagef("there is no image %q in the catalogue; there are: %v", name, slices.Sorted(maps.Keys(w.images)))
	}
	return img, nil
}

// describe is what the catalogue is made from. Out of a bundle it is what the lock says.
func (w *workshop) describe(ctx context.Context) (lock.Platform, error) {
	if w.builder != nil {
		return describe(ctx, w.builder, w.binaries, w.images)
	}
	have := lock.Platform{Binaries: map[string]lock.Binary{}, Images: map[string]lock.Image{}}
	for name := range w.binaries {
		if b, ok := w.locked.Binaries[name]; ok {
			have.Binaries[name] = b
		}
	}
	for name := range w.images {
		if i, ok := w.locked.Images[name]; ok {
			have.Images[name] = i
		}
	}
	return have, nil
}

// needsSource refuses a verb that is about source, where there is only a bundle.
func (w *workshop) needsSource(verb string) error {
	if w.builder != nil {
		return nil
	}
	return usagef("'orrery %s' reads source, and this environment is made from a bundle: run it in the repository, or with --catalog DIR", verb)
}

// allowedSources are those of orrery.yaml; of one that cannot be read, the default.
func allowedSources(o *options) []string {
	e, err := o.loadSpec()
	if err != nil {
		e = spec.Default()
	}
	return e.Images.Sources
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
		if img.Registry != "" {
			continue // the catalogue has its digest
		}
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
	p, ok := l.Platforms[build.Platform()]
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
	if p.builder == nil {
		return p.refuseMissing(ctx)
	}
	if p.locked == nil {
		p.sink.Emit(ui.Event{Type: ui.TypeWarning, Phase: "build", Message: fmt.Sprintf(
			"%s has nothing for %s: what is built is compared with nothing ('orrery lock' writes it)", filepath.Join(p.catalog.Root, lock.FileName), build.Platform())})
	}
	return p.refuseDrift(ctx, p.binaries, p.images)
}
