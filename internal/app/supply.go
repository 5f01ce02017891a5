package app

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// supplier has the programs and images that an environment is made of, wherever it takes
// them from. All of it is safe for concurrent use. What it gives is whole: a damaged entry
// is made again, or an error.
type supplier interface {
	// Cached reports whether Binary would return at once.
	Cached(context.Context, catalog.Binary) (bool, error)
	// Binary returns the path of the program, which must not be changed.
	Binary(context.Context, catalog.Binary) (string, error)
	// Link puts the program and its further names into dir, which is made if needed.
	Link(ctx context.Context, dir string, bin catalog.Binary) error
	// CachedImage is what Image would return, if it would return at once.
	CachedImage(context.Context, catalog.Image) (image.Built, bool, error)
	// Image has the image in an OCI layout on this machine.
	Image(context.Context, catalog.Image) (image.Built, error)
}

var (
	_ supplier = (*image.Builder)(nil)
	_ supplier = (*bundle.Store)(nil)
	_ supplier = sources{}
)

// sources are suppliers in order of preference. What one has already is taken before
// another is made to get it; all of them end at the digest of the lock. The last one is
// asked for what none has.
type sources []supplier

// Cached reports whether any has the program.
func (s sources) Cached(ctx context.Context, bin catalog.Binary) (bool, error) {
	for _, one := range s {
		if ok, err := one.Cached(ctx, bin); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// holder is who has the program, or who makes it.
func (s sources) holder(ctx context.Context, bin catalog.Binary) (supplier, error) {
	for _, one := range s {
		if ok, err := one.Cached(ctx, bin); ok || err != nil {
			return one, err
		}
	}
	return s[len(s)-1], nil
}

// Binary asks who has the program.
func (s sources) Binary(ctx context.Context, bin catalog.Binary) (string, error) {
	one, err := s.holder(ctx, bin)
	if err != nil {
		return "", err
	}
	return one.Binary(ctx, bin)
}

// Link asks who has the program. One that finds its copy damaged no longer has it, and the
// next is asked.
func (s sources) Link(ctx context.Context, dir string, bin catalog.Binary) error {
	for {
		one, err := s.holder(ctx, bin)
		if err != nil {
			return err
		}
		if err = one.Link(ctx, dir, bin); !errors.Is(err, bundle.ErrDamaged) || one == s[len(s)-1] {
			return err
		}
	}
}

// CachedImage is that of the first who has it.
func (s sources) CachedImage(ctx context.Context, img catalog.Image) (image.Built, bool, error) {
	for _, one := range s.forImage(img) {
		if built, ok, err := one.CachedImage(ctx, img); ok || err != nil {
			return built, ok, err
		}
	}
	return image.Built{}, false, nil
}

// Image asks who has it, else each in turn.
func (s sources) Image(ctx context.Context, img catalog.Image) (image.Built, error) {
	if built, ok, err := s.CachedImage(ctx, img); ok || err != nil {
		return built, err
	}
	err := fmt.Errorf("image %s: nobody here has it", img.Name)
	for _, one := range s.forImage(img) {
		var built image.Built
		if built, err = one.Image(ctx, img); err == nil || ctx.Err() != nil {
			return built, err
		}
	}
	return image.Built{}, err
}

// forImage are those who can have an image: what is pulled is not made here.
func (s sources) forImage(img catalog.Image) (out []supplier) {
	for _, one := range s {
		if _, builds := one.(*image.Builder); !builds || len(img.Binaries) > 0 {
			out = append(out, one)
		}
	}
	return out
}

// suppliers are where the environment gets its parts: the bundle that it is made from, and
// nothing else; or, in a repository, what was imported with the digests of the lock, and the
// builder, which is nil in the first case.
func (o *options) suppliers(root string, locked *lock.Platform, allowed []string, sink ui.Sink) (*image.Builder, supplier, error) {
	if o.fromBundle() {
		b, err := o.imported()
		if err != nil {
			return nil, nil, err
		}
		if locked == nil {
			return nil, nil, refusedError{fmt.Errorf("bundle %s is for %s and has nothing for this machine, %s", b.Digest(), b.Platform(), build.Platform())}
		}
		return nil, bundle.NewStore(*locked, b), nil
	}
	b, err := image.NewBuilder(build.Options{CacheDir: cacheRoot(), RepoRoot: root, Sink: sink, Log: o.logger()})
	if err != nil {
		return nil, nil, err
	}
	if locked == nil || !slices.Contains(allowed, spec.SourceBundle) {
		return b, b, nil
	}
	imported := bundle.List(cacheRoot())
	if len(imported) == 0 {
		return b, b, nil
	}
	return b, sources{bundle.NewStore(*locked, imported...), b}, nil
}
