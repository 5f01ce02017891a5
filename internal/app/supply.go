package app

import (
	"context"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
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

var _ supplier = (*image.Builder)(nil)
