package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/filelock"
)

// pruned is what was removed, or would be.
type pruned struct {
	names []string
	bytes int64
}

// Prune removes every cached binary that is not one of those given, as b or one of across
// would make it for its own platform, unless somebody is making it right now, and returns
// them as "NAME VERSION KEY" with their bytes. With dryRun it only says what it would remove.
func (b *Builder) Prune(ctx context.Context, binaries []catalog.Binary, dryRun bool, across ...*Builder) (names []string, bytes int64, err error) {
	p, keep := pruned{names: []string{}}, map[string]bool{}
	for _, one := range append([]*Builder{b}, across...) {
		for _, bin := range binaries {
			key, err := one.Key(ctx, bin)
			if err != nil {
				return p.names, 0, err // without all keys, what is needed would go
			}
			keep[key] = true
		}
	}
	if err := b.pruneBinaries(&p, keep, dryRun); err != nil {
		return p.names, p.bytes, fmt.Errorf("prune binaries: %w", err)
	}
	if err := b.pruneUnpacked(&p, keep, dryRun); err != nil {
		return p.names, p.bytes, fmt.Errorf("prune unpacked archives: %w", err)
	}
	return p.names, p.bytes, nil
}

func (b *Builder) pruneBinaries(p *pruned, keep map[string]bool, dryRun bool) error {
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
			lock, err := filelock.Try(b.store.lockPath(key), filelock.Exclusive)
			if err != nil {
				continue // being made
			}
			size := disk.Size(filepath.Join(b.store.dir, key))
			err = b.store.drop(key)
			os.Remove(b.store.lockPath(key))
			lock.Close()
			if err != nil {
				return err
			}
			p.bytes += size
		} else {
			p.bytes += disk.Size(filepath.Join(b.store.dir, key))
		}
		p.names = append(p.names, label)
	}
	slices.Sort(p.names)
	return nil
}

// pruneUnpacked removes the unpacked files of archives that go, or went. Those that nodes have
// are links to them, and stay.
func (b *Builder) pruneUnpacked(p *pruned, keep map[string]bool, dryRun bool) error {
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
		lock, err := filelock.Try(path+".lock", filelock.Exclusive)
		if err != nil {
			continue // being unpacked or linked
		}
		p.bytes += disk.Size(path)
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
