package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/orrery-dev/orrery/internal/catalog"
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
	keepBinaries := map[string]bool{}
	keepImages := map[layout]map[string]bool{}
	layouts, err := b.layouts()
	if err != nil {
		return p, err
	}
	for _, l := range layouts { // of platforms that nobody asks for any more, too
		keepImages[l] = map[string]bool{}
	}
	for _, one := range append([]*Builder{b}, across...) {
		for _, bin := range binaries {
			key, err := one.Key(ctx, bin)
			if err != nil {
				return p, err // without all keys, what is needed would go
			}
			keepBinaries[key] = true
		}
		for _, img := range images {
			key, err := one.imageKey(ctx, img)
			if err != nil {
				return p, err
			}
			keepImages[one.layout][key] = true
		}
	}
	if err := b.pruneBinaries(&p, keepBinaries, dryRun); err != nil {
		return p, fmt.Errorf("prune binaries: %w", err)
	}
	if err := b.pruneUnpacked(&p, keepBinaries, dryRun); err != nil {
		return p, fmt.Errorf("prune unpacked archives: %w", err)
	}
	for _, l := range layouts {
		if err := l.prune(ctx, &p, keepImages[l], dryRun); err != nil {
			return p, fmt.Errorf("prune images: %w", err)
		}
	}
	return p, nil
}

// layouts are those of the cache: this platform's and others'.
func (b *Builder) layouts() ([]layout, error) {
	dirs, err := filepath.Glob(filepath.Join(b.opts.CacheDir, "images-*"))
	if err != nil {
		return nil, err
	}
	all := []layout{{dir: filepath.Join(b.opts.CacheDir, "images"), arch: strings.TrimPrefix(Platform(), "linux/")}}
	for _, dir := range dirs {
		arch, _ := strings.CutPrefix(filepath.Base(dir), "images-")
		all = append(all, layout{dir: dir, arch: arch})
	}
	return all, nil
}

func (b *Builder) pruneBinaries(p *Pruned, keep map[string]bool, dryRun bool) error {
	entries, err := os.ReadDir(b.store.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		key := e.Name()
		if keep[key] || !e.IsDir() || len(key) != 64 {
			continue
		}
		label := key[:12]
		if m, _, err := b.store.read(key); err == nil {
			label = fmt.Sprintf("%s %s %s", m.Name, m.Version, key[:12])
		}
		if !dryRun {
			lock, err := lockFile(b.store.lockPath(key), lockExclusive)
			if err != nil {
				continue // being made
			}
			size := treeSize(filepath.Join(b.store.dir, key))
			err = b.store.drop(key)
			os.Remove(b.store.lockPath(key))
			lock.Close()
			if err != nil {
				return err
			}
			p.Bytes += size
		} else {
			p.Bytes += treeSize(filepath.Join(b.store.dir, key))
		}
		p.Binaries = append(p.Binaries, label)
	}
	slices.Sort(p.Binaries)
	return nil
}

// pruneUnpacked removes the unpacked files of archives that go, or went. Those that nodes have
// are links to them, and stay.
func (b *Builder) pruneUnpacked(p *Pruned, keep map[string]bool, dryRun bool) error {
	sums := map[string]bool{}
	for key := range keep {
		if m, err := b.store.lookup(key); err == nil {
			sums[m.SHA256] = true
		}
	}
	dir := filepath.Join(b.opts.CacheDir, UnpackedDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if sums[e.Name()] || !e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		lock, err := lockFile(path+".lock", lockExclusive)
		if err != nil {
			continue // being unpacked or linked
		}
		p.Bytes += treeSize(path)
		if !dryRun {
			err = os.RemoveAll(path)
			os.Remove(path + ".lock")
		}
		lock.Close()
		if err != nil {
			return err
		}
	}
	return err
}

// prune removes the images whose key is not in keep.
func (l layout) prune(ctx context.Context, p *Pruned, keep map[string]bool, dryRun bool) error {
	unlock, err := l.lock(ctx, lockExclusive)
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
	before := treeSize(filepath.Join(l.dir, "blobs"))
	var kept []v1.Descriptor
	for _, d := range index.Manifests {
		if wanted[d.Digest.String()] {
			kept = append(kept, d)
			continue
		}
		name := d.Annotations[refName]
		if l.arch != "" && "linux/"+l.arch != Platform() { // of what was pulled it is empty
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
	p.Bytes += before - treeSize(filepath.Join(l.dir, "blobs"))
	return nil
}

// treeSize is the bytes of all files below dir, as far as they can be read.
func treeSize(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}
