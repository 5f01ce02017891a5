package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/catalog"
)

// Link puts the binary and its further names into dir, which is made if needed: a hard
// link where the cache is on the same file system, otherwise a copy; further names are
// symbolic links to it. Each name changes from old to new in one step. The binary is
// built first when it is not cached, and hashed before it is linked.
func (b *Builder) Link(ctx context.Context, dir string, bin catalog.Binary) error {
	path, err := b.Binary(ctx, bin)
	if err != nil {
		return err
	}
	return Place(dir, bin, path, func() (string, error) { return b.Verified(ctx, bin) })
}

// Place is [Builder.Link] for a program that is at path. Before it is linked, verified
// hashes it and says where it is then.
func Place(dir string, bin catalog.Binary, path string, verified func() (string, error)) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("link %s: %w", bin.Name, err)
	}
	target := filepath.Join(dir, bin.Name)
	if !linked(path, target) {
		path, err := verified()
		if err != nil {
			return err
		}
		if err := atomicfile.Replace(target, func(tmp string) error { return linkOrCopy(path, tmp) }); err != nil {
			return fmt.Errorf("link %s: %w", bin.Name, err)
		}
	}
	for _, name := range bin.Links {
		if to, err := os.Readlink(filepath.Join(dir, name)); err == nil && to == bin.Name {
			continue
		}
		if err := atomicfile.Replace(filepath.Join(dir, name), func(tmp string) error { return os.Symlink(bin.Name, tmp) }); err != nil {
			return fmt.Errorf("link %s as %s: %w", bin.Name, name, err)
		}
	}
	return nil
}

// Verified is [Builder.Binary] that hashes the program before it returns its path. A damaged
// one is dropped, reported and built again.
func (b *Builder) Verified(ctx context.Context, bin catalog.Binary) (string, error) {
	for tries := 0; ; tries++ {
		key, err := b.ensure(ctx, bin)
		if err != nil {
			return "", err
		}
		_, err = b.store.verify(key)
		if err == nil {
			return b.store.path(key, bin.Name), nil
		}
		if tries > 0 {
			return "", fmt.Errorf("%s was built again and is damaged again; check the disk of %s: %w", bin.Name, b.store.dir, err)
		}
		b.warn("build/"+bin.Name, fmt.Sprintf("the cached %s was damaged (%v): building it again", bin.Name, err))
		unlock, err := b.store.lock(ctx, key, nil)
		if err != nil {
			return "", err
		}
		err = b.store.drop(key)
		unlock()
		if err != nil {
			return "", err
		}
	}
}

// linked reports whether target is the cached file itself, or a copy that linkOrCopy made.
func linked(path, target string) bool {
	a, err := os.Stat(path)
	if err != nil {
		return false
	}
	t, err := os.Lstat(target)
	return err == nil && (os.SameFile(a, t) ||
		t.Mode().IsRegular() && t.Size() == a.Size() && t.ModTime().Equal(a.ModTime()))
}

func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o555)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err = errors.Join(err, dst.Close()); err != nil {
		return err
	}
	info, err := src.Stat()
	if err != nil {
		return err
	}
	return os.Chtimes(to, info.ModTime(), info.ModTime())
}
