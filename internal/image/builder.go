package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/lock"
)

// errCorrupt is wrapped by errors about a stored image that is damaged.
var errCorrupt = errors.New("damaged image")

// Builder makes images out of the programs that it builds. It is safe for concurrent use,
// also by several processes on one cache folder.
type Builder struct {
	*build.Builder
	layout layout
	images build.Group // by key
}

// NewBuilder opens the cache, making it if needed. Images are beside the programs in it.
func NewBuilder(o build.Options) (*Builder, error) {
	programs, err := build.NewBuilder(o)
	if err != nil {
		return nil, err
	}
	arch := strings.TrimPrefix(programs.Platform(), "linux/")
	dir := filepath.Join(programs.CacheDir(), "images")
	if programs.Platform() != build.Platform() { // a layout has one image of a name and version
		dir += "-" + arch
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the cache: %w", err)
	}
	return &Builder{Builder: programs, layout: layout{dir: dir, arch: arch}}, nil
}

// DescribeImage says what img is made from and, when it is built, its digest.
func (b *Builder) DescribeImage(ctx context.Context, img catalog.Image) (lock.Image, error) {
	d := lock.Image{Version: img.Version, User: img.User, Entrypoint: img.Entrypoint, Directories: img.Directories}
	for _, bin := range img.Binaries {
		d.Binaries = append(d.Binaries, bin.Name)
	}
	built, ok, err := b.CachedImage(ctx, img)
	if ok {
		d.Digest = built.Digest
	}
	return d, err
}
