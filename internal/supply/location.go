package supply

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/lock"
)

// Location is where a catalogue and its lock are: in a folder, or in a bundle that was
// imported. What is there is read once, when it is first asked for.
type Location struct {
	root   func() (string, error)
	bundle string // digest; "" for a folder
	opened func() (*bundle.Imported, error)

	catalog func() (*catalog.Catalog, error)
	lock    func() (lock.Lock, error)
}

// Folder is the catalogue in dir or the nearest folder above it; "" is the working folder.
func Folder(dir string) *Location {
	if dir == "" {
		dir = "."
	}
	l := &Location{root: sync.OnceValues(func() (string, error) { return catalog.FindRoot(dir) })}
	return l.reading()
}

// InBundle is the catalogue of the bundle with that digest, out of the cache.
func InBundle(cacheDir, digest string) *Location {
	return inBundle(digest, func() (*bundle.Imported, error) {
		b, err := bundle.OpenImported(cacheDir, digest)
		if errors.Is(err, bundle.ErrNotImported) {
			err = fmt.Errorf("%w; or use a repository: --catalog DIR", err)
		}
		return b, err
	})
}

// Preview is the catalogue of a bundle that is not in the cache.
func Preview(b *bundle.Imported) *Location {
	return inBundle(b.Digest(), func() (*bundle.Imported, error) { return b, nil })
}

func inBundle(digest string, open func() (*bundle.Imported, error)) *Location {
	l := &Location{bundle: digest, opened: sync.OnceValues(open)}
	l.root = func() (string, error) {
		b, err := l.opened()
		if err != nil {
			return "", err
		}
		return b.CatalogDir(), nil
	}
	return l.reading()
}

func (l *Location) reading() *Location {
	l.lock = sync.OnceValues(func() (lock.Lock, error) {
		root, err := l.root()
		if err != nil {
			return lock.Lock{}, failure.Usage{Err: err}
		}
		return readLock(root)
	})
	l.catalog = sync.OnceValues(func() (*catalog.Catalog, error) {
		root, err := l.root()
		if err != nil {
			return nil, failure.Usage{Err: err}
		}
		c, err := catalog.Load(root)
		if err != nil {
			return nil, failure.Usage{Err: err}
		}
		// A bad dashboard is refused here, not met in a browser.
		if _, err := dashboard.LoadAll(root); err != nil {
			return nil, failure.Usage{Err: err}
		}
		// Somebody wrote the build costs down once; the lock has them from a real build.
		if locked, err := l.Lock(); err == nil && locked != nil {
			c.EachBinary(func(b *catalog.Binary) {
				if cpu := locked.Binaries[b.Name].CPUSeconds; cpu > 0 {
					b.CPUSeconds = cpu
				}
			})
		}
		if locked, err := l.lock(); err == nil {
			c.Pin(locked.Digests())
		}
		return c, nil
	})
	return l
}

// Root is the folder that holds infra/.
func (l *Location) Root() (string, error) { return l.root() }

// Bundle is the digest of the bundle that everything comes from; empty in a folder.
func (l *Location) Bundle() string { return l.bundle }

// Catalog is the catalogue; it must not be changed. That there is none, or that it is wrong,
// is the person's mistake.
func (l *Location) Catalog() (*catalog.Catalog, error) { return l.catalog() }

// Lock is what the lock has for this machine's platform; nil when there is no lock, or when it
// has nothing for it: then nothing is compared.
func (l *Location) Lock() (*lock.Platform, error) {
	whole, err := l.lock()
	if err != nil {
		return nil, err
	}
	p, ok := whole.Platforms[build.Platform()]
	if !ok {
		return nil, nil
	}
	return &p, nil
}

// Components are those that a bundle was made with, and the overlay; none in a folder.
func (l *Location) Components() (overlay string, names []string, err error) {
	if l.bundle == "" {
		return "", nil, nil
	}
	b, err := l.opened()
	if err != nil {
		return "", nil, err
	}
	overlay, names = b.Components()
	return overlay, names, nil
}

// readLock reads root's lock; an empty one when there is none.
func readLock(root string) (lock.Lock, error) {
	l, err := lock.Load(filepath.Join(root, lock.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return lock.Lock{}, nil
	}
	if err != nil {
		return lock.Lock{}, failure.Usage{Err: err}
	}
	return l, nil
}
