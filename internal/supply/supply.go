package supply

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Options of [Open]. All but Lock are needed.
type Options struct {
	// Location that Catalog and Lock are of: a bundle has all, a folder is built.
	Location *Location
	// Catalog as the environment has it (catalog.For).
	Catalog *catalog.Catalog
	// Lock is what everything is held to; nil: nothing is compared.
	Lock     *lock.Platform
	CacheDir string
	// Images is the image source policy of orrery.yaml.
	Images spec.Images
	Sink   ui.Sink
	Log    *slog.Logger
}

// Supply has what a catalogue names. It is safe for concurrent use.
type Supply struct {
	Catalog *catalog.Catalog
	// Locked is what everything is held to; nil: nothing is compared.
	Locked *lock.Platform

	options    Options
	sources    sources
	builder    *image.Builder    // nil out of a bundle: nothing is built
	store      *bundle.Store     // of the one bundle that all comes from; nil in a folder
	registries *image.Registries // nil when images.sources does not name them

	shared *shared // programs that images.registry has

	mu     sync.Mutex
	pulled map[string]bool // first-party images that a registry was found to have
}

// Open finds the sources: the bundle that the catalogue is of, and nothing else; or, in a
// repository, what was imported with the digests of the lock, registries, and the builder.
// It connects to nothing.
func Open(o Options) (*Supply, error) {
	s := &Supply{Catalog: o.Catalog, Locked: o.Lock, options: o, shared: &shared{}, pulled: map[string]bool{}}
	if err := s.openRegistries(); err != nil {
		return nil, err
	}
	if o.Location.Bundle() != "" {
		b, err := o.Location.opened()
		if err != nil {
			return nil, err
		}
		if o.Lock == nil {
			return nil, failure.Refusedf("bundle %s is for %s and has nothing for this machine, %s", b.Digest(), b.Platform(), build.Platform())
		}
		s.store = bundle.NewStore(*o.Lock, b)
		s.sources = sources{s.store}
		return s, nil
	}
	var err error
	s.builder, err = image.NewBuilder(build.Options{CacheDir: o.CacheDir, RepoRoot: o.Catalog.Root, Sink: o.Sink, Log: o.Log, Fetch: s.fetch})
	if err != nil {
		return nil, err
	}
	if o.Lock != nil && slices.Contains(o.Images.Sources, spec.SourceBundle) {
		if imported := bundle.List(o.CacheDir); len(imported) > 0 {
			s.sources = append(s.sources, bundle.NewStore(*o.Lock, imported...))
		}
	}
	s.sources = append(s.sources, s.builder)
	return s, nil
}

func (s *Supply) openRegistries() (err error) {
	if !s.allows(spec.SourceRegistry) {
		return nil
	}
	s.registries, err = image.NewRegistries(image.RegistryOptions{CacheDir: s.options.CacheDir, CABundle: s.options.Images.CABundle})
	if err != nil {
		return failure.Usage{Err: err}
	}
	return nil
}

// With is the same supply for another choice of the same catalogue.
func (s *Supply) With(cat *catalog.Catalog) *Supply {
	return &Supply{
		Catalog: cat, Locked: s.Locked, options: s.options, sources: s.sources, builder: s.builder, store: s.store,
		registries: s.registries, shared: s.shared, pulled: map[string]bool{},
	}
}

// Builds reports whether what is missing can be compiled: not out of a bundle.
func (s *Supply) Builds() bool { return s.builder != nil }

// CacheDir is where everything is kept.
func (s *Supply) CacheDir() string { return s.options.CacheDir }

// NeedsSource refuses a verb that is about source, where there is only a bundle.
func (s *Supply) NeedsSource(verb string) error {
	if s.builder != nil {
		return nil
	}
	return failure.Usagef("'orrery %s' reads source, and this environment is made from a bundle:"+
		" run it in the repository, or with --catalog DIR", verb)
}

// Cached reports whether Binary would return at once.
func (s *Supply) Cached(ctx context.Context, bin catalog.Binary) (bool, error) {
	return s.sources.Cached(ctx, bin)
}

// Binary returns the path of a program, which must not be changed.
func (s *Supply) Binary(ctx context.Context, bin catalog.Binary) (string, error) {
	return s.sources.Binary(ctx, bin)
}

// Link puts a program and its further names into dir, which is made if needed.
func (s *Supply) Link(ctx context.Context, dir string, bin catalog.Binary) error {
	return s.sources.Link(ctx, dir, bin)
}

// Chart reads a chart out of the module that the catalogue names.
func (s *Supply) Chart(ctx context.Context, c catalog.ModuleChart) (map[string][]byte, error) {
	if s.builder == nil {
		return nil, errors.New("its chart is in a module, which a bundle does not carry; render it where the repository is")
	}
	return s.builder.Chart(ctx, c)
}

// Parts are programs and images of a catalogue, by name: all of it, or what an environment
// has.
type Parts struct {
	Binaries map[string]catalog.Binary // of the node distribution and of images
	Images   map[string]catalog.Image  // also those that are not built: they have a Registry
	// From is the component of an image, or "distribution".
	From map[string]string
}

// distributed is what Parts.From says of the images that nodes themselves need.
const distributed = "distribution"

// All are the parts of the whole catalogue: the node distribution for every network, and the
// images of all components. Out of a bundle, those that it was made with.
func (s *Supply) All() Parts {
	p := partsOf(s.Catalog.Distribution.Everything(), slices.Collect(maps.Values(s.Catalog.Components)))
	if s.store != nil {
		maps.DeleteFunc(p.Images, func(name string, img catalog.Image) bool {
			return img.Registry == "" && s.Locked.Images[name].Digest == ""
		})
	}
	return p
}

// Of are the parts of an environment with these components.
func Of(d catalog.Distribution, components []catalog.Component) Parts { return partsOf(d, components) }

func partsOf(d catalog.Distribution, components []catalog.Component) Parts {
	p := Parts{Binaries: map[string]catalog.Binary{}, Images: map[string]catalog.Image{}, From: map[string]string{}}
	for _, bin := range d.Files() {
		p.Binaries[bin.Name] = bin
	}
	add := func(img catalog.Image, from string) {
		p.Images[img.Name], p.From[img.Name] = img, from
		for _, bin := range img.Binaries {
			p.Binaries[bin.Name] = bin
		}
	}
	if d.Sandbox.Name != "" {
		add(d.Sandbox, distributed)
	}
	slices.SortFunc(components, func(a, b catalog.Component) int { return cmp.Compare(a.Name, b.Name) })
	for _, c := range components {
		for _, img := range c.Images {
			add(img, c.Name)
		}
	}
	return p
}

// Built are the images that are made from programs.
func (p Parts) Built() map[string]catalog.Image {
	return p.images(func(i catalog.Image) bool { return i.Registry == "" })
}

// Pulled are the images that only a registry has.
func (p Parts) Pulled() map[string]catalog.Image {
	return p.images(func(i catalog.Image) bool { return i.Registry != "" })
}

func (p Parts) images(want func(catalog.Image) bool) map[string]catalog.Image {
	out := maps.Clone(p.Images)
	maps.DeleteFunc(out, func(_ string, i catalog.Image) bool { return !want(i) })
	return out
}

// Image finds an image that is built here by its name.
func (p Parts) Image(name string) (catalog.Image, error) {
	img, ok := p.Images[name]
	switch {
	case !ok:
		return img, failure.Usagef("there is no image %q in the catalogue; there are: %v", name, slices.Sorted(maps.Keys(p.Built())))
	case img.Registry != "":
		return img, failure.Usagef("image %s is not built here: it is pulled as %s", name, img.Registry)
	}
	return img, nil
}

// only leaves the named binaries and images, and what those images consist of.
func (p Parts) only(names []string) (Parts, error) {
	some := Parts{Binaries: map[string]catalog.Binary{}, Images: map[string]catalog.Image{}, From: p.From}
	for _, name := range names {
		bin, isBinary := p.Binaries[name]
		img, isImage := p.Built()[name]
		if !isBinary && !isImage {
			return some, failure.Usagef("--only %s: neither a binary nor an image of the catalogue", name)
		}
		if isBinary {
			some.Binaries[name] = bin
		}
		if isImage {
			some.Images[name] = img
			for _, bin := range img.Binaries {
				some.Binaries[bin.Name] = bin
			}
		}
	}
	return some, nil
}

// NodeProgram finds a program or an archive of the node distribution by one of its names.
func (s *Supply) NodeProgram(name string) (catalog.Binary, error) {
	var names []string
	for _, bin := range s.Catalog.Distribution.Everything().Files() {
		if bin.Name == name || slices.Contains(bin.Links, name) {
			return bin, nil
		}
		names = append(names, bin.Name)
	}
	slices.Sort(names)
	return catalog.Binary{}, failure.Usagef("there is no program %q in the node distribution; there are: %v", name, names)
}

// LockFile is the path of the lock.
func (s *Supply) LockFile() string { return filepath.Join(s.Catalog.Root, lock.FileName) }

// Origin is the source that an image on this machine came from.
func (s *Supply) Origin(built image.Built) string {
	switch filepath.Dir(built.Layout) {
	case s.options.CacheDir:
		if filepath.Base(built.Layout) == image.PulledDir {
			return spec.SourceRegistry
		}
		return spec.SourceSource
	default:
		return spec.SourceBundle
	}
}

func (s *Supply) warn(e ui.Event, format string, a ...any) {
	e.Type, e.Message = ui.TypeWarning, fmt.Sprintf(format, a...)
	s.options.Sink.Emit(e)
}
