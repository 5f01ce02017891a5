package supply

import (
	"context"
	"errors"
	"fmt"

	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
)

// source has the programs and images that a platform is made of. All of it is safe for
// concurrent use. What it gives is whole: a damaged entry is made again, or an error.
type source interface {
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
	_ source = (*image.Builder)(nil)
	_ source = (*bundle.Store)(nil)
	_ source = sources{}
)

// sources in order of preference. What one has already is taken before another is made to get
// it; all of them end at the digest of the lock. The last one is asked for what none has.
type sources []source

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
func (s sources) holder(ctx context.Context, bin catalog.Binary) (source, error) {
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
func (s sources) forImage(img catalog.Image) (out sources) {
	for _, one := range s {
		if _, builds := one.(*image.Builder); !builds || len(img.Binaries) > 0 {
			out = append(out, one)
		}
	}
	return out
}

// bundles are the imported bundles among the sources, if any are.
func (s sources) bundles() (*bundle.Store, bool) {
	for _, one := range s {
		if store, ok := one.(*bundle.Store); ok {
			return store, true
		}
	}
	return nil, false
}

// withoutBuilder are the sources of an image that only a registry has: no builder makes it.
func (s sources) withoutBuilder() (out sources) {
	for _, one := range s {
		if _, builds := one.(*image.Builder); !builds {
			out = append(out, one)
		}
	}
	return out
}
