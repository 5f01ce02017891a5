package image

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/oci"
)

// Pruned is what [Builder.Prune] removed, or would remove.
type Pruned struct {
	Binaries []string `json:"binaries"` // "NAME VERSION KEY"
	Images   []string `json:"images"`   // "NAME:VERSION"
	// Bytes of the removed entries. A binary that a node holds a link to stays on the disk
	// until that node is gone.
	Bytes int64 `json:"bytes"`
}

// Prune removes every cached binary and image that is not one of those given, as b or one of
// across would make it for its own platform, unless somebody is making it right now. With
// dryRun it only says what it would remove.
func (b *Builder) Prune(ctx context.Context, binaries []catalog.Binary, images []catalog.Image, dryRun bool, across ...*Builder) (Pruned, error) {
	p := Pruned{Binaries: []string{}, Images: []string{}}
	keep := map[layout]map[string]bool{}
	layouts, err := b.layouts()
	if err != nil {
		return p, err
	}
	for _, l := range layouts { // of platforms that nobody asks for any more, too
		keep[l] = map[string]bool{}
	}
	var builders []*build.Builder
	for _, other := range across {
		builders = append(builders, other.Builder)
	}
	for _, one := range append([]*Builder{b}, across...) {
		for _, img := range images {
			key, err := one.imageKey(ctx, img)
			if err != nil {
				return p, err // without all keys, what is needed would go
			}
			keep[one.layout][key] = true
		}
	}
	if p.Binaries, p.Bytes, err = b.Builder.Prune(ctx, binaries, dryRun, builders...); err != nil {
		return p, err
	}
	for _, l := range layouts {
		if err := l.prune(ctx, &p, keep[l], dryRun); err != nil {
			return p, fmt.Errorf("prune images: %w", err)
		}
	}
	return p, nil
}

// layouts are those of the cache: this platform's and others'.
func (b *Builder) layouts() ([]layout, error) {
	dirs, err := filepath.Glob(filepath.Join(b.CacheDir(), "images-*"))
	if err != nil {
		return nil, err
	}
	all := []layout{{dir: filepath.Join(b.CacheDir(), "images"), arch: strings.TrimPrefix(build.Platform(), "linux/")}}
	for _, dir := range dirs {
		arch, _ := strings.CutPrefix(filepath.Base(dir), "images-")
		all = append(all, layout{dir: dir, arch: arch})
	}
	return all, nil
}

// prune removes the images whose key is not in keep.
func (l layout) prune(ctx context.Context, p *Pruned, keep map[string]bool, dryRun bool) error {
	unlock, err := l.lock(ctx, filelock.Exclusive)
	if err != nil {
		return err
	}
	defer unlock()
	index, err := l.readIndex()
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for key := range keep {
		if built, ok := l.lookup(key); ok {
			wanted[built.Digest] = true
		}
	}
	before := disk.Size(filepath.Join(l.dir, "blobs"))
	var kept []v1.Descriptor
	for _, d := range index.Manifests {
		if wanted[d.Digest.String()] {
			kept = append(kept, d)
			continue
		}
		name := d.Annotations[oci.RefName]
		if l.arch != "" && "linux/"+l.arch != build.Platform() { // of what was pulled it is empty
			name += " (linux/" + l.arch + ")"
		}
		p.Images = append(p.Images, name)
	}
	if dryRun {
		return nil
	}
	index.Manifests = kept
	if err := l.writeIndex(index); err != nil {
		return err
	}
	if err := l.collect(index); err != nil {
		return err
	}
	p.Bytes += before - disk.Size(filepath.Join(l.dir, "blobs"))
	return nil
}
