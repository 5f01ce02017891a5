package bundle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/oci"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Below the cache folder:
//
//	bundles/DIGEST/              an imported bundle, all of it
//	  index.json, blobs/sha256/  an OCI layout with the images and what is attached to them
//	  bin/SHA256                 programs of the nodes
//	  catalog/                   the catalogue and its lock
//	bundles/.part-DIGEST/        one that is being imported, or was when something stopped it
//	bundles/.lock/DIGEST         held meanwhile
const (
	dirName    = "bundles"
	partPrefix = ".part-"
)

// ImportOptions of [File.Import].
type ImportOptions struct {
	CacheDir string // required
	Platform string // a bundle for another one is refused; empty: none is
	// Have finds a file with this SHA-256 that the machine has already, on the same file
	// system: it is hashed and linked, so that it is there once. May be nil.
	Have    func(sha256 string) (path string, ok bool)
	Sink    ui.Sink // progress; nil drops it
	Workers int     // 0: one for each core
}

// Result of an import.
type Result struct {
	Digest string `json:"digest"`
	Dir    string `json:"dir"`
	// Already: it was imported before, and nothing had to be done.
	Already bool `json:"already"`
	// Kept bytes were there, of an import that was interrupted or of other bundles; they
	// were hashed again. Written bytes were not.
	Kept    int64   `json:"kept"`
	Written int64   `json:"written"`
	Seconds float64 `json:"seconds"`
}

// importer is one import at work.
type importer struct {
	*File
	opts  ImportOptions
	dir   string
	meter *meter
	syncs *errgroup.Group
	kept  chan int64
}

// Import unpacks the bundle into the cache. Every byte is hashed; nobody sees any of it
// before all of it is on the disk. After an interruption the next import keeps what had
// been verified. Of two imports of the same bundle one works and the other waits. Memory
// does not depend on the size of the bundle.
//
// It does not look at the signature: see [File.Verify].
func (f *File) Import(ctx context.Context, o ImportOptions) (Result, error) {
	start := time.Now()
	result := Result{Digest: f.Digest(), Dir: Dir(o.CacheDir, f.Digest())}
	if o.Platform != "" && f.platform != o.Platform {
		return result, fmt.Errorf("%s is %w: %s, and this machine is %s", f.name, ErrPlatform, f.platform, o.Platform)
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	root := filepath.Join(o.CacheDir, dirName)
	if err := os.MkdirAll(filepath.Join(root, ".lock"), 0o755); err != nil {
		return result, fmt.Errorf("import %s: %w", f.name, err)
	}
	held, err := filelock.Wait(ctx, lockPath(root, f.digest), filelock.Exclusive, func() {
		if o.Sink != nil {
			o.Sink.Emit(ui.Event{Time: time.Now(), Type: ui.TypeNotice, Phase: "build", Message: "another process is importing the same bundle: waiting for it"})
		}
	})
	if err != nil {
		return result, fmt.Errorf("import %s: %w", f.name, err)
	}
	defer held.Close()
	im := &importer{File: f, opts: o, dir: result.Dir, syncs: &errgroup.Group{}}
	im.syncs.SetLimit(16)
	_, err = os.Stat(im.dir)
	whole := err == nil
	if whole && im.present() {
		result.Already, result.Seconds = true, time.Since(start).Seconds()
		return result, nil
	}
	if !whole { // what is missing from a whole one is put back into it
		im.dir = filepath.Join(root, partPrefix+f.digest)
	}
	if result.Kept, err = im.unpack(ctx); err == nil && !whole {
		if err = os.Rename(im.dir, result.Dir); err == nil {
			err = disk.Sync(root)
		}
	}
	if err != nil {
		if errors.Is(err, unix.ENOSPC) && !whole {
			err = errors.Join(err, os.RemoveAll(im.dir)) // the room is needed
		}
		return result, fmt.Errorf("import %s: %w", f.name, full(err))
	}
	for _, e := range f.entries {
		result.Written += e.unpacked()
	}
	result.Written -= result.Kept
	result.Seconds = time.Since(start).Seconds()
	return result, nil
}

// Dir is where an imported bundle is, below a cache folder.
func Dir(cacheDir, digest string) string { return filepath.Join(cacheDir, dirName, hexOf(digest)) }

func lockPath(root, hex string) string { return filepath.Join(root, ".lock", hex) }

// target is the file that an entry becomes.
func (e entry) target(dir string) string {
	switch e.kind {
	case kindProgram:
		return filepath.Join(dir, "bin", e.program.SHA256)
	case kindCatalog:
		return filepath.Join(dir, "catalog")
	}
	return filepath.Join(dir, filepath.FromSlash(blobPrefix), e.digest)
}

// want is the SHA-256 of the target, and its size.
func (e entry) want() (string, int64) {
	if e.kind == kindProgram {
		return e.program.SHA256, e.plain
	}
	return e.digest, e.size
}

// present tells whether every file of an imported bundle is there.
func (im *importer) present() bool {
	for _, e := range im.entries {
		if !e.there(im.dir) {
			return false
		}
	}
	_, err := os.Stat(filepath.Join(im.dir, oci.IndexFile))
	return err == nil
}

func (e entry) there(dir string) bool {
	path := e.target(dir)
	if e.kind == kindCatalog {
		path = filepath.Join(path, lock.FileName)
	}
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	_, size := e.want()
	return e.kind == kindCatalog || info.Size() == size
}

// unpack brings all that is missing into the folder, and says how many bytes were there.
func (im *importer) unpack(ctx context.Context) (kept int64, err error) {
	for _, d := range []string{"blobs/sha256", "bin"} {
		if err := os.MkdirAll(filepath.Join(im.dir, filepath.FromSlash(d)), 0o755); err != nil {
			return 0, err
		}
	}
	var total, need int64
	for _, e := range im.entries {
		total += e.size
		if !e.there(im.dir) {
			need += e.unpacked()
		}
	}
	if err := room(im.dir, need); err != nil {
		return 0, err
	}
	im.meter = newMeter(im.opts.Sink, "import", total)
	im.kept = make(chan int64, len(im.entries))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(im.opts.Workers)
	for _, e := range im.largestFirst() {
		if gctx.Err() != nil {
			break
		}
		g.Go(func() error { return im.entry(gctx, e) })
	}
	if err := errors.Join(g.Wait(), im.syncs.Wait()); err != nil {
		return 0, err
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	close(im.kept)
	for n := range im.kept {
		kept += n
	}
	noted := &Imported{dir: im.dir, parsedIndex: im.parsedIndex}
	if err := noted.notePulled(); err != nil {
		return 0, err
	}
	for name, data := range map[string][]byte{oci.LayoutFile: []byte(oci.LayoutContent), signatureName: im.sigRaw, oci.IndexFile: im.raw} {
		if err := im.file(filepath.Join(im.dir, name), 0o644, func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		}); err != nil {
			return 0, err
		}
	}
	if err := im.syncs.Wait(); err != nil {
		return 0, err
	}
	for _, d := range []string{"blobs/sha256", "bin", "."} {
		if err := disk.Sync(filepath.Join(im.dir, filepath.FromSlash(d))); err != nil {
			return 0, err
		}
	}
	im.meter.finish()
	return kept, nil
}

// largestFirst is the order in which workers end at about the same time.
func (im *importer) largestFirst() []entry {
	return slices.SortedStableFunc(slices.Values(im.sorted()), func(a, b entry) int { return cmp.Compare(b.unpacked(), a.unpacked()) })
}

// room refuses to begin what the disk cannot take.
func room(dir string, need int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil // it will be found out
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < need {
		return fmt.Errorf("%w: %d MB are needed below %s, and %d MB are free", unix.ENOSPC, need/1e6+1, dir, free/1e6)
	}
	return nil
}
