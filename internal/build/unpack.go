package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/filelock"
)

// UnpackedDir is the folder of a cache with archives that were unpacked, each in a folder
// that is called like the SHA-256 of the archive. It is safe to delete.
const UnpackedDir = "unpacked"

// digestFile is in every folder that an archive was placed in, and says which.
const digestFile = ".sha256"

// Unpack puts the files of an archive, whose SHA-256 is sum, into the folder dir, in place of
// what it held; it does nothing where they are already, byte for byte. They are unpacked once
// in cacheDir: the files of dir are links to those, or copies where links cannot be made. They
// must not be changed: damaged says how they were when they had been, and were unpacked again.
func Unpack(ctx context.Context, cacheDir, sum, dir, archive string) (damaged, err error) {
	if len(sum) != 64 || filepath.Base(sum) != sum {
		return nil, fmt.Errorf("unpack an archive: %q is no SHA-256", sum)
	}
	if have, err := os.ReadFile(filepath.Join(dir, digestFile)); err == nil && string(have) == sum {
		if damaged = CompareUnpacked(archive, dir); damaged == nil {
			return nil, nil
		}
	}
	whole := filepath.Join(cacheDir, UnpackedDir, sum)
	if err := os.MkdirAll(filepath.Dir(whole), 0o755); err != nil {
		return damaged, fmt.Errorf("unpack an archive: %w", err)
	}
	// Nobody removes what was unpacked while it is linked.
	unlock, err := filelock.Wait(ctx, whole+".lock", filelock.Exclusive, nil)
	if err != nil {
		return damaged, fmt.Errorf("unpack an archive: %w", err)
	}
	defer unlock.Close()
	_, err = os.Stat(filepath.Join(whole, digestFile))
	there := err == nil
	if there {
		if err := CompareUnpacked(archive, whole); err != nil {
			damaged, there = err, false
		}
	}
	if !there {
		if err := unpackInto(archive, sum, whole); err != nil {
			return damaged, fmt.Errorf("unpack %s: %w", archive, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return damaged, err
	}
	return damaged, replaceFolder(dir, func(tmp string) error { return linkTree(whole, tmp) })
}

// CompareUnpacked reads the files of an archive, and those of the folder that it was unpacked
// to, and says what differs; nil when nothing does.
func CompareUnpacked(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	t, wanted := tar.NewReader(f), map[string]bool{digestFile: true}
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("%q does not belong into an archive", h.Name)
		}
		wanted[filepath.FromSlash(h.Name)] = true
		if err := sameContent(t, filepath.Join(dir, filepath.FromSlash(h.Name))); err != nil {
			return fmt.Errorf("%w: %s: %w", errCorrupt, h.Name, err)
		}
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err == nil && !wanted[rel] {
			err = fmt.Errorf("%w: %s is not of the archive", errCorrupt, rel)
		}
		return err
	})
}

// sameContent reads both to the end of want.
func sameContent(want io.Reader, file string) error {
	info, err := os.Lstat(file)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is no file any more")
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	at, _, _, err := FirstDifference(want, f)
	if err == nil && at >= 0 {
		err = fmt.Errorf("it differs at offset %d", at)
	}
	return err
}

// unpackInto makes the folder whole of an archive, which is hashed first.
func unpackInto(archive, sum, whole string) error {
	got, err := disk.SHA256(archive)
	if err != nil {
		return err
	}
	if got != sum {
		return fmt.Errorf("%w: its SHA-256 is %s and should be %s", errCorrupt, got, sum)
	}
	return replaceFolder(whole, func(tmp string) error {
		f, err := os.Open(archive)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := untar(f, tmp); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(tmp, digestFile), []byte(sum), 0o444)
	})
}

// replaceFolder is replace for a folder, which cannot be renamed over one with files in it.
// Killed in between, it leaves none, and the next run makes it.
func replaceFolder(dir string, make func(tmp string) error) error {
	tmp := fmt.Sprintf("%s.tmp%d", dir, os.Getpid())
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	err := os.Mkdir(tmp, 0o755)
	if err == nil {
		err = make(tmp)
	}
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err == nil {
		err = os.Rename(tmp, dir)
	}
	if err != nil {
		os.RemoveAll(tmp)
	}
	return err
}

// untar takes regular files only: archives are made here, and hold nothing else.
func untar(r io.Reader, dir string) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) || filepath.Base(h.Name) == digestFile {
			return fmt.Errorf("%q does not belong into an archive", h.Name)
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444|fs.FileMode(h.Mode)&0o111)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, t) //nolint:gosec // an archive of our own, whose digest was checked
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}

// linkTree links every file below from into to, which is an empty folder.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || rel == "." {
			return err
		}
		if d.IsDir() {
			return os.Mkdir(filepath.Join(to, rel), 0o755)
		}
		return linkOrCopy(path, filepath.Join(to, rel))
	})
}

// pack makes the archive bin.
func (b *Builder) pack(ctx context.Context, bin catalog.Binary, s source, work, out string) error {
	if bin.Debian != nil {
		return b.packDebian(ctx, bin, work, out)
	}
	return b.packFolder(ctx, bin, s, out)
}
