package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/lock"
)

// entry has one blob unpacked.
func (im *importer) entry(ctx context.Context, e entry) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if im.keep(e) {
		im.meter.add(e.size)
		im.kept <- e.unpacked()
		return nil
	}
	in := newDigester(false)
	r := io.TeeReader(cancellable{ctx, im.open(e)}, io.MultiWriter(in, im.meter))
	err := im.write(e, r)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok {
		return err // it is our disk, and not what was read
	}
	if err != nil && !errors.Is(err, errContent) && !isFormat(err) {
		return err
	}
	// What was not read for its content belongs to the digest all the same.
	if _, copyErr := io.CopyBuffer(io.Discard, struct{ io.Reader }{r}, make([]byte, copyBuffer)); copyErr != nil {
		return fmt.Errorf("read %s: %w", im.name, copyErr)
	}
	if in.size != e.size || in.hex() != e.digest {
		return im.locate(e, "its SHA-256 is "+in.hex())
	}
	if err != nil {
		return fmt.Errorf("blob sha256:%s of %s is as the index says, and its content is not: %w;"+
			" whoever made the bundle made it wrong", e.digest, e.owner, err)
	}
	return nil
}

// errContent is wrapped when what was unpacked is not what the index says.
var errContent = errors.New("the content is wrong")

// isFormat tells a stream that cannot be decoded from a disk that cannot be written.
func isFormat(err error) bool {
	_, errno := errors.AsType[unix.Errno](err)
	return !errno
}

// keep hashes what is there already, here or elsewhere on the machine.
func (im *importer) keep(e entry) bool {
	if e.kind == kindCatalog {
		// Many small files: writing them again is as quick as looking at them.
		return im.dir == Dir(im.opts.CacheDir, im.Digest()) && e.there(im.dir)
	}
	target := e.target(im.dir)
	sum, size := e.want()
	if e.there(im.dir) {
		if got, err := disk.SHA256(target); err == nil && got == sum {
			return true
		}
		os.Remove(target)
		return false
	}
	if im.opts.Have == nil {
		return false
	}
	path, ok := im.opts.Have(sum)
	if !ok {
		return false
	}
	tmp := target + ".link"
	os.Remove(tmp)
	if os.Link(path, tmp) != nil {
		return false
	}
	defer os.Remove(tmp)
	info, err := os.Lstat(tmp)
	if err != nil || !info.Mode().IsRegular() || info.Size() != size {
		return false
	}
	if got, err := disk.SHA256(tmp); err != nil || got != sum {
		return false
	}
	return os.Rename(tmp, target) == nil
}

// write unpacks one blob from r.
func (im *importer) write(e entry, r io.Reader) error {
	buffer := make([]byte, copyBuffer)
	switch e.kind {
	case kindPlain:
		return im.file(e.target(im.dir), 0o644, func(w io.Writer) error {
			d := newDigester(false)
			if _, err := io.CopyBuffer(io.MultiWriter(w, d), struct{ io.Reader }{r}, buffer); err != nil {
				return err
			}
			if d.hex() != e.digest { // before it gets its name
				return errContent
			}
			return nil
		})
	case kindProgram:
		return im.file(e.target(im.dir), 0o555, func(w io.Writer) error {
			return decode(r, e, func(plain io.Reader) error {
				_, err := io.CopyBuffer(w, struct{ io.Reader }{plain}, buffer)
				return err
			})
		})
	}
	target := e.target(im.dir)
	tmp := target + ".tmp"
	if err := errors.Join(os.RemoveAll(tmp), os.RemoveAll(target)); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	if err := decode(r, e, func(plain io.Reader) error { return untar(plain, tmp) }); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	if sum, err := disk.SHA256(filepath.Join(tmp, lock.FileName)); err != nil || sum != im.lock {
		return errors.Join(fmt.Errorf("%w: its %s is not the one that the index names", errContent, lock.FileName), os.RemoveAll(tmp))
	}
	if err := syncTree(tmp); err != nil {
		return err
	}
	return os.Rename(tmp, target)
}

// decode unpacks a zstd stream, no more of it than the index allows, and checks its hash.
func decode(r io.Reader, e entry, use func(io.Reader) error) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer z.Close()
	plain := sha256.New()
	limited := &io.LimitedReader{R: z, N: e.plain + 1}
	if err := use(io.TeeReader(limited, plain)); err != nil {
		return err
	}
	if got := e.plain + 1 - limited.N; got != e.plain {
		return fmt.Errorf("%w: it unpacks to another size than %d bytes", errContent, e.plain)
	}
	if got := hex.EncodeToString(plain.Sum(nil)); got != e.program.SHA256 {
		return fmt.Errorf("%w: it unpacks to the SHA-256 %s and not %s", errContent, got, e.program.SHA256)
	}
	return nil
}

// file makes a file that has its name only when all of it is written. The disk may be
// behind: syncs waits for it.
func (im *importer) file(path string, mode fs.FileMode, fill func(io.Writer) error) error {
	tmp := path + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	err = errors.Join(fill(&flusher{f: f}), f.Chmod(mode))
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(tmp))
	}
	im.syncs.Go(func() error {
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return errors.Join(err, os.Remove(tmp))
		}
		return os.Rename(tmp, path)
	})
	return nil
}

// syncTree has all files and folders below dir on the disk.
func syncTree(dir string) error {
	var g errgroup.Group
	g.SetLimit(16) // together they cost little more than one
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			g.Go(func() error { return disk.Sync(path) })
		}
		return err
	})
	return errors.Join(err, g.Wait())
}
