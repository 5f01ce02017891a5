package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/proc"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Go's build cache grows by gigabytes with every large program and forgets nothing for days.
// What two modules compile alike is the standard library and little more: a seventh of the
// rest at most. So a large module has a cache of its own, which begins with the standard
// library and is removed whole once nobody builds in it; small ones share one:
//
//	go-build            small modules
//	go-build-MODULE     a large module's
//	go-build-std-ARCH   the standard library, compiled once
//	NAME.lock           beside each: shared by the builds in it, exclusive to remove it;
//	                    its time is that of the last build
const goCachePrefix = "go-build"

const (
	// ownCache is how many CPU-seconds a module takes that has a cache of its own.
	ownCache = 60
	// idleCaches is how much of the caches that nobody builds in stays, in bytes: those last
	// used, for the next change of one of their programs.
	idleCaches = 1 << 30
)

// goCache is the GOCACHE of one build. It is not removed before it is closed.
type goCache struct {
	dir   string
	inUse *os.File
}

func (c goCache) close() { c.inUse.Close() }

func (b *Builder) goCacheDir(bin catalog.Binary, src source) string {
	name := goCachePrefix
	if bin.ModuleSeconds >= ownCache {
		name += "-" + strings.ReplaceAll(src.mod.Module.Mod.Path, "/", "-")
	}
	return filepath.Join(b.opts.CacheDir, name)
}

// holdCache keeps bin's cache from being removed. It is called before bin waits for its turn,
// so that a module's cache is there for all programs that were asked for together.
func (b *Builder) holdCache(ctx context.Context, bin catalog.Binary, src source) (goCache, error) {
	dir := b.goCacheDir(bin, src)
	lock, err := filelock.Wait(ctx, dir+".lock", filelock.Shared, nil)
	if err != nil {
		return goCache{}, fmt.Errorf("lock the build cache: %w", err)
	}
	now := time.Now()
	_ = os.Chtimes(lock.Name(), now, now) // which only decides what is removed first
	return goCache{dir: dir, inUse: lock}, nil
}

// prepare makes the folder of c if there is none, with the standard library in it. It is put
// together in the folder work.
func (b *Builder) prepare(ctx context.Context, c goCache, bin catalog.Binary, work string) error {
	if _, err := os.Stat(c.dir); err == nil || bin.ModuleSeconds < ownCache {
		return os.MkdirAll(c.dir, 0o755)
	}
	std := filepath.Join(b.opts.CacheDir, goCachePrefix+"-std-"+b.arch())
	lock, err := filelock.Wait(ctx, std+".lock", filelock.Exclusive, nil)
	if err != nil {
		return fmt.Errorf("lock the compiled standard library: %w", err)
	}
	defer lock.Close()
	if _, err := os.Stat(c.dir); err == nil {
		return nil // by another build that held the lock
	}
	if err := b.compileStd(ctx, std, bin); err != nil {
		return fmt.Errorf("compile the standard library: %w", err)
	}
	whole := filepath.Join(work, goCachePrefix)
	if err := cloneCache(std, whole); err != nil {
		return fmt.Errorf("begin with the standard library: %w", err)
	}
	return os.Rename(whole, c.dir)
}

// compileStd has all of the standard library in the cache std, which the caller holds.
func (b *Builder) compileStd(ctx context.Context, std string, bin catalog.Binary) error {
	sum, err := b.Toolchain(ctx)
	if err != nil {
		return err
	}
	whole := filepath.Join(std, "compiled-by")
	if by, err := os.ReadFile(whole); err == nil && string(by) == sum.Sum {
		return nil
	}
	if err := os.RemoveAll(std); err != nil {
		return err
	}
	b.progress(bin.Name, ui.Event{Message: bin.Name + " " + bin.Version + ": compiling Go's standard library"})
	var said bytes.Buffer
	cmd := &proc.Cmd{
		Path: b.go_.path, Args: []string{"build", "-p", strconv.Itoa(cores()), "-trimpath", "std"},
		Dir: "/", Env: b.environment(b.go_, false, std), Stderr: &said, Tail: maxDiagnostics,
		Started: func(id proc.Identity) { lower(id.PID, bin) },
	}
	if err := proc.Run(ctx, cmd); err != nil {
		return err
	}
	return os.WriteFile(whole, []byte(sum.Sum), 0o644)
}

// cloneCache makes dir a cache with the entries of from. The large files, named -d, are never
// written to once they are there, and linked; Go writes the small ones again, so they are
// copied.
func cloneCache(from, dir string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, rel)
		switch {
		case d.IsDir():
			return os.MkdirAll(to, 0o755)
		case strings.HasSuffix(rel, "-d"):
			return os.Link(path, to)
		case strings.HasSuffix(rel, "-a"):
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(to, data, 0o644)
		}
		return nil
	})
}

// trimCaches removes the caches that nobody builds in, but for keep bytes of those that were
// used last. The standard library stays.
func (b *Builder) trimCaches(keep int64) error {
	type cache struct {
		dir  string
		lock *os.File
		used time.Time
		size int64
	}
	dirs, err := filepath.Glob(filepath.Join(b.opts.CacheDir, goCachePrefix+"*"))
	if err != nil {
		return err
	}
	var idle []cache
	defer func() {
		for _, c := range idle {
			c.lock.Close()
		}
	}()
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || strings.HasPrefix(filepath.Base(dir), goCachePrefix+"-std-") {
			continue
		}
		var used time.Time
		if info, err := os.Stat(dir + ".lock"); err == nil {
			used = info.ModTime()
		}
		lock, err := filelock.Try(dir+".lock", filelock.Exclusive)
		if errors.Is(err, filelock.ErrLocked) {
			continue
		}
		if err != nil {
			return err
		}
		idle = append(idle, cache{dir, lock, used, disk.Size(dir)})
	}
	slices.SortFunc(idle, func(a, b cache) int { return b.used.Compare(a.used) })
	var errs []error
	for _, c := range idle {
		if c.size <= keep {
			keep -= c.size
			continue
		}
		b.opts.Log.Info("a build cache is dropped", "dir", c.dir, "bytes", c.size)
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}
