package image

import (
	"context"
	"errors"
	"log/slog"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/ui"
)

// RegistryHost is how manifests name the environment's mirror registry. Nodes resolve it
// through containerd's host configuration, never through DNS.
const RegistryHost = "registry.orrery.internal"

// Options of a [Builder].
type Options struct {
	// CacheDir holds everything that is made: binaries, images and Go's build cache.
	// It is safe to delete. Required.
	CacheDir string
	// RepoRoot is what "//" in a binary's module stands for.
	RepoRoot string
	Sink     ui.Sink      // progress and warnings; nil drops them
	Log      *slog.Logger // nil drops
	// MaxMemoryMiB bounds the builds that run at a time; 0 means three quarters of what
	// is free.
	MaxMemoryMiB int
}

// Builder turns pinned modules into binaries and images. It is safe for concurrent use,
// also by several processes on one CacheDir.
type Builder struct{ opts Options }

var errTODO = errors.New("not implemented yet")

func NewBuilder(o Options) (*Builder, error) { return &Builder{opts: o}, nil }
func (b *Builder) Key(ctx context.Context, bin catalog.Binary) (string, error) {
	return "", errTODO
}
func (b *Builder) Cached(ctx context.Context, bin catalog.Binary) (bool, error) {
	return false, errTODO
}
func (b *Builder) Binary(ctx context.Context, bin catalog.Binary) (string, error) {
	return "", errTODO
}
func (b *Builder) Link(ctx context.Context, dir string, bin catalog.Binary) error { return errTODO }
func (b *Builder) DropBuildCache() error                                          { return errTODO }
func (b *Builder) Image(ctx context.Context, img catalog.Image) (Built, error) {
	return Built{}, errTODO
}
func (b *Builder) CachedImage(ctx context.Context, img catalog.Image) (Built, bool, error) {
	return Built{}, false, errTODO
}
func Push(ctx context.Context, registry string, built Built) error { return errTODO }

// Built is an image in the local store.
type Built struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Digest  string `json:"digest"` // of the manifest: "sha256:…"
	Size    int64  `json:"size"`   // bytes to transfer: manifest, configuration and compressed layers
	// Layout is the OCI layout folder that holds it.
	Layout string `json:"-"`
}

// Reference names the image for manifests. The digest is what counts; the version is for
// people.
func (b Built) Reference() string {
	return RegistryHost + "/" + b.Name + ":" + b.Version + "@" + b.Digest
}
