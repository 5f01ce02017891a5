package build

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Options of a [Builder].
type Options struct {
	// CacheDir holds everything that is made: binaries and Go's build cache, and images.
	// It is safe to delete while nothing is being built. Required.
	CacheDir string
	// RepoRoot is what "//" in a binary's module stands for.
	RepoRoot string
	Sink     ui.Sink      // progress and warnings; nil drops them
	Log      *slog.Logger // nil drops
	// MaxMemoryMiB bounds the builds that run at a time; 0 means three quarters of what
	// is free when the first build starts.
	MaxMemoryMiB int
	// Platform is what binaries are made for: "linux/arm64". Default [Platform],
	// this machine's. Others are compiled across, which C is not.
	Platform string
	// Fetch is asked for a binary before it is made: it writes the file to path and reports true,
	// or reports false where it has none. It vouches for the bytes. Nil: everything is made here.
	Fetch func(ctx context.Context, bin catalog.Binary, path string) (bool, error)
	// Env is added to what compilers run in, as NAME=VALUE. It must not decide bytes:
	// it is no part of any key.
	Env []string
}

// Builder turns pinned modules into binaries. It is safe for concurrent use,
// also by several processes on one CacheDir.
type Builder struct {
	opts  Options
	store store

	builds Group // by key

	// Two builds that compile at once compile what they share twice, so big ones go one
	// after the other, each on all cores; linking, which uses one core, overlaps with the
	// next build. Small ones have a lane of their own, or the registry would wait for
	// Kubernetes.
	big, small lane

	mu     sync.Mutex // guards what is found out once
	go_    *toolchain
	libs   map[string]string // description of the C toolchain by its package list
	memory *semaphore.Weighted
	budget int64 // MiB, of memory

	hashing sync.Mutex // guards hashed
	hashed  Toolchain
}

// smallBuild is the most CPU-seconds that a build of the small lane takes. So chosen, all
// of a node but Kubernetes is done when Kubernetes is, and nodes can start.
const smallBuild = 150

// NewBuilder opens the cache, making it if needed, and clears what interrupted builds
// left there.
func NewBuilder(o Options) (*Builder, error) {
	if o.CacheDir == "" {
		return nil, errors.New("no cache folder was given")
	}
	dir, err := filepath.Abs(o.CacheDir)
	if err != nil {
		return nil, err
	}
	o.CacheDir = dir
	if o.Sink == nil {
		o.Sink = ui.Discard
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Platform == "" {
		o.Platform = Platform()
	}
	system, arch, _ := strings.Cut(o.Platform, "/")
	if system != "linux" || arch == "" || strings.Contains(arch, "/") {
		return nil, fmt.Errorf("platform %q: want linux/ARCH, such as linux/arm64", o.Platform)
	}
	b := &Builder{
		opts:  o,
		store: store{dir: filepath.Join(dir, "bin")},
		libs:  map[string]string{},
	}
	if err := os.MkdirAll(filepath.Join(b.store.dir, ".lock"), 0o755); err != nil {
		return nil, fmt.Errorf("make the cache: %w", err)
	}
	b.store.sweep(o.Log)
	return b, nil
}

// CacheDir is where everything is kept, as an absolute path.
func (b *Builder) CacheDir() string { return b.opts.CacheDir }

// Platform is what is built for.
func (b *Builder) Platform() string { return b.opts.Platform }

func (b *Builder) arch() string { return strings.TrimPrefix(b.opts.Platform, "linux/") }

// CannotCross says why bin cannot be built here for the builder's platform; empty when it
// can.
func (b *Builder) CannotCross(bin catalog.Binary) string {
	if bin.CGO && b.opts.Platform != Platform() {
		return "it has C in it, which is not compiled for another processor here; 'orrery lock' on a machine of that platform adds it"
	}
	return ""
}

// Key names what bin will be: a hash over its source, its flags and the tools that
// compile it. Equal keys mean equal bytes.
func (b *Builder) Key(ctx context.Context, bin catalog.Binary) (string, error) {
	src, err := b.source(bin)
	if err != nil {
		return "", err
	}
	return b.key(ctx, bin, src)
}

// Cached reports whether [Builder.Binary] would return at once.
func (b *Builder) Cached(ctx context.Context, bin catalog.Binary) (bool, error) {
	key, err := b.Key(ctx, bin)
	if err != nil {
		return false, err
	}
	_, err = b.store.lookup(key)
	return err == nil, nil
}

// Binary returns the path of the compiled program, in the cache, and compiles it first if
// it is not there. The file must not be changed. Builds wait for memory, and for another
// process that is making the same binary. Progress goes to the sink under the step
// "build/NAME". A cancelled build leaves nothing behind.
func (b *Builder) Binary(ctx context.Context, bin catalog.Binary) (string, error) {
	key, err := b.ensure(ctx, bin)
	if err != nil {
		return "", err
	}
	return b.store.path(key, bin.Name), nil
}

// ensure has bin in the store and returns its key.
func (b *Builder) ensure(ctx context.Context, bin catalog.Binary) (string, error) {
	src, err := b.source(bin)
	if err != nil {
		return "", err
	}
	key, err := b.key(ctx, bin, src)
	if err != nil {
		return "", err
	}
	if _, err := b.store.lookup(key); err == nil {
		return key, nil
	}
	if why := b.CannotCross(bin); why != "" {
		return "", fmt.Errorf("build %s for %s: %s", bin.Name, b.opts.Platform, why)
	}
	if b.opts.Fetch != nil {
		err := b.builds.Do(ctx, "fetch "+key, func() error { return b.fetch(ctx, key, bin, src) })
		if err != nil {
			return "", err
		}
		if _, err := b.store.lookup(key); err == nil {
			return key, nil
		}
	}
	if !bin.Archive() {
		if _, err := b.toolchain(ctx, src); err != nil {
			return "", fmt.Errorf("binary %s: %w", bin.Name, err)
		}
		if key, err = b.key(ctx, bin, src); err != nil { // with the Go that there is now
			return "", err
		}
	}
	return key, b.builds.Do(ctx, key, func() error { return b.make(ctx, key, bin, src) })
}

// under calls f with an empty folder to make the entry of key in, while nobody else makes it; not
// at all when somebody has. A damaged entry is dropped first.
func (b *Builder) under(ctx context.Context, key string, bin catalog.Binary, f func(work string) error) error {
	unlock, err := b.store.lock(ctx, key, func() {
		b.progress(bin.Name, ui.Event{Message: "another process is building " + bin.Name})
	})
	if err != nil {
		return fmt.Errorf("build %s: %w", bin.Name, err)
	}
	defer unlock()
	switch _, err := b.store.lookup(key); {
	case err == nil:
		return nil // by the process that held the lock
	case errors.Is(err, errCorrupt):
		b.warn("build/"+bin.Name, fmt.Sprintf("the cached %s was damaged (%v): building it again", bin.Name, err))
		if err := b.store.drop(key); err != nil {
			return err
		}
	}
	work, err := b.store.begin(key)
	if err != nil {
		return fmt.Errorf("build %s: %w", bin.Name, err)
	}
	defer b.store.abandon(work)
	return f(work)
}

// fetch has what somebody else made, if it can be had.
func (b *Builder) fetch(ctx context.Context, key string, bin catalog.Binary, src source) error {
	return b.under(ctx, key, bin, func(work string) error {
		got, err := b.opts.Fetch(ctx, bin, filepath.Join(work, "out", bin.Name))
		if err != nil || !got {
			return err
		}
		m := manifest{Format: cacheFormat, Key: key, Name: bin.Name, Version: bin.Version, Source: src.ref, Package: bin.Package}
		if err := b.store.commit(work, m); err != nil {
			return fmt.Errorf("store %s: %w", bin.Name, err)
		}
		return nil
	})
}

// make compiles bin into the store under the key's lock.
func (b *Builder) make(ctx context.Context, key string, bin catalog.Binary, src source) error {
	return b.under(ctx, key, bin, func(work string) error { return b.makeIn(ctx, work, key, bin, src) })
}

func (b *Builder) makeIn(ctx context.Context, work, key string, bin catalog.Binary, src source) error {
	if bin.Archive() {
		return b.makeArchive(ctx, key, bin, src, work)
	}
	lane := &b.big
	if bin.CPUSeconds <= smallBuild {
		lane = &b.small
	}
	cache, err := b.holdCache(ctx, bin, src)
	if err != nil {
		return fmt.Errorf("build %s: %w", bin.Name, err)
	}
	defer func() {
		cache.close()
		if err := b.trimCaches(idleCaches); err != nil {
			b.opts.Log.Warn("trim Go's build caches", "error", err)
		}
	}()
	b.progress(bin.Name, ui.Event{Message: fmt.Sprintf("%s %s: waiting for its turn", bin.Name, bin.Version)})
	leave, err := lane.enter(ctx, bin.Stage, bin.CPUSeconds)
	if err != nil {
		return err
	}
	defer leave()
	grant, err := b.reserve(ctx, bin.MemoryMiB)
	if err != nil {
		return err
	}
	defer grant.release()
	began := time.Now()
	usage, err := b.compile(ctx, bin, src, cache, work, grant, leave)
	if err != nil {
		return fmt.Errorf("build %s: %w", bin.Name, err)
	}
	m := manifest{
		Format: cacheFormat, Key: key, Name: bin.Name, Version: bin.Version,
		Source: src.ref, Package: bin.Package, Go: b.go_.version,
		CPUSeconds: usage.CPU.Seconds(), MaxRSSMiB: usage.MaxRSS >> 20,
	}
	if err := b.store.commit(work, m); err != nil {
		return fmt.Errorf("store %s: %w", bin.Name, err)
	}
	b.opts.Log.Info("built", "binary", bin.Name, "version", bin.Version, "key", key[:12],
		"cpuSeconds", usage.CPU.Seconds(), "maxRSSMiB", usage.MaxRSS>>20, "wall", time.Since(began))
	return nil
}

// makeArchive packs bin into the folder work and stores it. Nothing is compiled, so it waits
// for no build.
func (b *Builder) makeArchive(ctx context.Context, key string, bin catalog.Binary, src source, work string) error {
	b.progress(bin.Name, ui.Event{Message: "fetching and packing " + bin.Name + " " + bin.Version})
	if err := b.pack(ctx, bin, src, work, filepath.Join(work, "out", bin.Name)); err != nil {
		return fmt.Errorf("pack %s: %w", bin.Name, err)
	}
	m := manifest{Format: cacheFormat, Key: key, Name: bin.Name, Version: bin.Version, Source: src.ref}
	if err := b.store.commit(work, m); err != nil {
		return fmt.Errorf("store %s: %w", bin.Name, err)
	}
	return nil
}

// Measured is what the build of a cached binary took.
type Measured struct {
	CPUSeconds float64 // user + system
	MaxRSSMiB  int64   // of the largest process
	Size       int64   // bytes of the binary
}

// Measured returns what building bin took when it was built; false when it is not cached.
func (b *Builder) Measured(ctx context.Context, bin catalog.Binary) (Measured, bool) {
	key, err := b.Key(ctx, bin)
	if err != nil {
		return Measured{}, false
	}
	m, err := b.store.lookup(key)
	return Measured{m.CPUSeconds, m.MaxRSSMiB, m.Size}, err == nil
}

func (b *Builder) progress(name string, e ui.Event) {
	e.Time, e.Type, e.Step, e.Phase = time.Now(), ui.TypeProgress, "build/"+name, "build"
	b.opts.Sink.Emit(e)
}

func (b *Builder) warn(step, message string) {
	b.opts.Sink.Emit(ui.Event{Time: time.Now(), Type: ui.TypeWarning, Step: step, Phase: "build", Message: message})
	b.opts.Log.Warn(message, "step", step)
}

func cores() int { return runtime.GOMAXPROCS(0) }
