package bundle

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
)

// Store gives out programs and images of imported bundles, by the digests of a lock: what
// the lock does not have does not exist. It builds nothing and calls no program. It is safe
// for concurrent use.
type Store struct {
	locked  lock.Platform
	bundles []*Imported
}

// NewStore looks for what locked names in bundles, the first first.
func NewStore(locked lock.Platform, bundles ...*Imported) *Store {
	return &Store{locked: locked, bundles: bundles}
}

// Cached reports whether a bundle has the program, or an image that it is in.
func (s *Store) Cached(_ context.Context, bin catalog.Binary) (bool, error) {
	if _, ok := s.program(bin.Name); ok {
		return true, nil
	}
	_, ok := s.imageOf(bin.Name)
	return ok, nil
}

// Binary returns the path of a program of the node distribution. The programs of images are
// in their layers, and nowhere else.
func (s *Store) Binary(_ context.Context, bin catalog.Binary) (string, error) {
	if path, ok := s.program(bin.Name); ok {
		return path, nil
	}
	if name, ok := s.imageOf(bin.Name); ok {
		return "", fmt.Errorf("program %s is in the image %s of the bundle and not beside it", bin.Name, name)
	}
	return "", s.missing("program " + bin.Name)
}

// Link puts a program and its further names into dir, after it was hashed.
func (s *Store) Link(ctx context.Context, dir string, bin catalog.Binary) error {
	path, err := s.Binary(ctx, bin)
	if err != nil {
		return err
	}
	return build.Place(dir, bin, path, func() (string, error) {
		want := s.locked.Binaries[bin.Name].SHA256
		got, err := disk.SHA256(path)
		if err == nil && got != want {
			for _, b := range s.bundles {
				if p, ok := b.program(want); ok && p == path {
					err = b.damaged(path)
				}
			}
		}
		return path, err
	})
}

// CachedImage is an image of a bundle; it looks at files' names and sizes only.
func (s *Store) CachedImage(_ context.Context, img catalog.Image) (image.Built, bool, error) {
	built, ok := s.image(img.Name, s.digest(img))
	return built, ok, nil
}

// Image is CachedImage for which an image that is not there is an error.
func (s *Store) Image(_ context.Context, img catalog.Image) (image.Built, error) {
	if built, ok := s.image(img.Name, s.digest(img)); ok {
		return built, nil
	}
	return image.Built{}, s.missing("image " + img.Name)
}

func (s *Store) program(name string) (string, bool) {
	want := s.locked.Binaries[name].SHA256
	if want == "" {
		return "", false
	}
	for _, b := range s.bundles {
		if path, ok := b.program(want); ok {
			return path, true
		}
	}
	return "", false
}

// digest is what the lock says of an image that is built, and the catalogue of one that is
// pulled.
func (s *Store) digest(img catalog.Image) string {
	return cmp.Or(img.RegistryDigest(), s.locked.Images[img.Name].Digest)
}

func (s *Store) image(name, want string) (image.Built, bool) {
	for _, b := range s.bundles {
		if built, ok := b.image(want); ok && want != "" {
			built.Name = name
			return built, true
		}
	}
	return image.Built{}, false
}

// imageOf finds an image that has a program of this name in it.
func (s *Store) imageOf(program string) (string, bool) {
	for _, name := range slices.Sorted(maps.Keys(s.locked.Images)) {
		if slices.Contains(s.locked.Images[name].Binaries, program) {
			if _, ok := s.image(name, s.locked.Images[name].Digest); ok {
				return name, true
			}
		}
	}
	return "", false
}

// Attached reads what is attached to an image.
func (s *Store) Attached(digest string) ([]Attached, error) {
	for _, b := range s.bundles {
		if _, ok := b.image(digest); ok {
			return b.Attached(digest)
		}
	}
	return nil, nil
}

// ProgramDocuments reads the documents of the program of that name that the lock names, by media type.
// ok: a bundle has the program.
func (s *Store) ProgramDocuments(program string) (programDocuments map[string][]byte, ok bool, err error) {
	want := s.locked.Binaries[program].SHA256
	for _, b := range s.bundles {
		if _, has := b.program(want); has && want != "" {
			programDocuments, err = b.ProgramDocuments(program)
			return programDocuments, true, err
		}
	}
	return nil, false, nil
}

func (s *Store) missing(what string) error {
	if len(s.bundles) == 1 {
		return fmt.Errorf("%s: bundle %s does not have it, or has it no more: import the bundle again,"+
			" or one that has it", what, s.bundles[0].Digest())
	}
	return fmt.Errorf("%s: none of %d imported bundles has it: %w", what, len(s.bundles), os.ErrNotExist)
}
