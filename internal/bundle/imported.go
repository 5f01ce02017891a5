package bundle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/oci"
)

// Imported is a bundle that was unpacked on this machine.
type Imported struct {
	dir string
	*parsedIndex

	preview bool // nothing but the catalogue is there: see [File.Preview]
}

// Preview unpacks the catalogue of the bundle into dir, and nothing else. What it returns
// says of everything in the bundle that it is there: it is for plans that nobody executes.
func (f *File) Preview(dir string) (*Imported, error) {
	b := &Imported{dir: dir, parsedIndex: f.parsedIndex, preview: true}
	im := &importer{File: f, opts: ImportOptions{}, dir: dir, syncs: &errgroup.Group{}}
	if err := im.write(f.catalog, f.open(f.catalog)); err != nil {
		return nil, f.locate(f.catalog, "its catalogue cannot be read: "+err.Error())
	}
	return b, nil
}

// OpenImported reads the index of an imported bundle. Its error wraps [ErrNotImported] when
// the machine does not have it, or [ErrDamaged].
func OpenImported(cacheDir, digest string) (*Imported, error) {
	b := &Imported{dir: Dir(cacheDir, digest)}
	raw, err := os.ReadFile(filepath.Join(b.dir, oci.IndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("bundle %s is %w: import it with 'orrery bundle import FILE'", digest, ErrNotImported)
	}
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w", digest, err)
	}
	if hexSum(raw) != hexOf(digest) {
		return nil, b.damaged(filepath.Join(b.dir, oci.IndexFile))
	}
	b.parsedIndex, err = look(raw, func(d v1.Descriptor) ([]byte, error) {
		path := oci.Layout(b.dir).Blob(d.Digest)
		data, err := os.ReadFile(path)
		if err == nil && hexSum(data) != d.Digest.Hex {
			err = b.damaged(path)
		}
		return data, err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: import it again with 'orrery bundle import FILE': %w", ErrNotImported, err)
	}
	if err != nil {
		return nil, fmt.Errorf("bundle %s: %w", digest, err)
	}
	return b, nil
}

// damaged removes a file, so that the next import puts it back.
func (b *Imported) damaged(path string) error {
	return errors.Join(fmt.Errorf("%s is %w and was removed: import the bundle again with 'orrery bundle import FILE'", path, ErrDamaged), os.Remove(path))
}

// Digest of the index: "sha256:…".
func (b *Imported) Digest() string { return "sha256:" + b.digest }

// CatalogDir holds infra/ and orrery.lock.
func (b *Imported) CatalogDir() string { return filepath.Join(b.dir, "catalog") }

// Lock reads the lock that came with the bundle.
func (b *Imported) Lock() (lock.Platform, error) {
	l, err := lock.Load(filepath.Join(b.CatalogDir(), lock.FileName))
	return l.Platforms[b.platform], err
}

// Platform that everything in it is for: "linux/amd64".
func (b *Imported) Platform() string { return b.platform }

// Components that were chosen when the bundle was made, of its overlay.
func (b *Imported) Components() (overlay string, names []string) { return b.overlay, b.components }

// program is the path of a program with this SHA-256.
func (b *Imported) program(sum string) (string, bool) {
	for _, p := range b.programs {
		if p.SHA256 == sum {
			path := filepath.Join(b.dir, "bin", sum)
			info, err := os.Lstat(path)
			return path, b.preview || err == nil && info.Mode().IsRegular() && info.Size() == p.Size
		}
	}
	return "", false
}

// image is one with this digest, if all of it is there.
func (b *Imported) image(digest string) (image.Built, bool) {
	for _, i := range b.images {
		if i.Digest == digest {
			return image.Built{Name: i.Name, Version: i.Version, Digest: digest, Size: i.Size, Layout: b.dir}, b.all(i.descriptor, 0)
		}
	}
	return image.Built{}, false
}

// all tells whether a manifest and everything that it names is there.
func (b *Imported) all(d v1.Descriptor, depth int) bool {
	e, known := b.entries[d.Digest.Hex]
	if b.preview {
		return known
	}
	if !known || !e.there(b.dir) {
		return false
	}
	if !(d.MediaType.IsImage() || d.MediaType.IsIndex()) || depth > oci.MaxDepth {
		return true
	}
	m, _, err := oci.Layout(b.dir).Manifest(d.Digest, maxBlobs)
	if err != nil {
		return false
	}
	subs := m.Blobs()
	for _, sub := range m.Manifests {
		if oci.Suits(sub, b.platform) {
			subs = append(subs, sub)
		}
	}
	for _, sub := range subs {
		if !b.all(sub, depth+1) {
			return false
		}
	}
	return true
}

// List opens all imported bundles. Those that cannot be read are left out: an import puts
// them right.
func List(cacheDir string) []*Imported {
	entries, err := os.ReadDir(filepath.Join(cacheDir, dirName))
	if err != nil {
		return nil
	}
	var out []*Imported
	for _, e := range entries {
		if !hexForm.MatchString(e.Name()) {
			continue
		}
		if b, err := OpenImported(cacheDir, e.Name()); err == nil {
			out = append(out, b)
		}
	}
	return out
}

// Pruned is a bundle, or the rest of an import, that [Prune] removed or would remove.
type Pruned struct {
	Digest string `json:"digest"`
	Bytes  int64  `json:"bytes"`
}

// Hold keeps an imported bundle from being pruned until release is called, or the process
// ends. Its error wraps [ErrNotImported] when the machine does not have it, or no longer.
func Hold(ctx context.Context, cacheDir, digest string) (release func(), err error) {
	root := filepath.Join(cacheDir, dirName)
	missing := fmt.Errorf("bundle %s is %w: import it with 'orrery bundle import FILE'", digest, ErrNotImported)
	if _, err := os.Stat(root); err != nil {
		return nil, missing
	}
	if err := os.MkdirAll(filepath.Join(root, ".lock"), 0o755); err != nil {
		return nil, err
	}
	held, err := filelock.Wait(ctx, lockPath(root, hexOf(digest)), filelock.Shared, nil)
	if err != nil {
		return nil, fmt.Errorf("hold bundle %s: %w", digest, err)
	}
	if _, err := os.Stat(filepath.Join(Dir(cacheDir, digest), oci.IndexFile)); err != nil {
		held.Close()
		return nil, missing
	}
	return func() { held.Close() }, nil
}

// Prune removes imported bundles that keep does not want, and what interrupted imports
// left, unless somebody is importing or holding it right now. keep is asked when nobody
// can take the bundle any more. With dryRun it only says so.
func Prune(cacheDir string, keep func(digest string) bool, dryRun bool) ([]Pruned, error) {
	root := filepath.Join(cacheDir, dirName)
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("prune bundles: %w", err)
	}
	var out []Pruned
	for _, e := range entries {
		hex, part := strings.CutPrefix(e.Name(), partPrefix)
		if !hexForm.MatchString(hex) || !part && keep("sha256:"+hex) {
			continue
		}
		p := Pruned{Digest: "sha256:" + hex, Bytes: treeSize(filepath.Join(root, e.Name()))}
		if !dryRun {
			held, err := filelock.Try(lockPath(root, hex), filelock.Exclusive)
			if errors.Is(err, filelock.ErrLocked) {
				continue
			}
			if err != nil {
				return out, fmt.Errorf("prune bundles: %w", err)
			}
			if !part && keep("sha256:"+hex) { // somebody began to need it meanwhile
				held.Close()
				continue
			}
			err = remove(root, e.Name())
			os.Remove(lockPath(root, hex))
			held.Close()
			if err != nil {
				return out, fmt.Errorf("prune bundles: %w", err)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// remove renames first, so that a bundle never looks half there.
func remove(root, name string) error {
	if hexForm.MatchString(name) {
		dead := partPrefix + name
		if err := os.RemoveAll(filepath.Join(root, dead)); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(root, name), filepath.Join(root, dead)); err != nil {
			return err
		}
		name = dead
	}
	return os.RemoveAll(filepath.Join(root, name))
}

// treeSize is the bytes of all files below dir that nothing else links to.
func treeSize(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if info, err := d.Info(); err == nil && links(info) == 1 {
			total += info.Size()
		}
		return nil
	})
	return total
}

// links is how many names a file has.
func links(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink) //nolint:unconvert // 32 bits on arm64
	}
	return 1
}

// Holds finds a file of the bundle, a blob or a program, by its SHA-256.
func (b *Imported) Holds(sum string) (string, bool) {
	if path, ok := b.program(sum); ok {
		return path, true
	}
	if e, ok := b.entries[sum]; ok && e.kind == kindPlain && e.there(b.dir) {
		return e.target(b.dir), true
	}
	return "", false
}
