package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/lock"
)

// catalogTar packs the catalogue's files and the lock: same files, same bytes.
func catalogTar(c Contents) ([]byte, error) {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	files := append(slices.DeleteFunc(slices.Clone(c.Files), func(f string) bool { return f == lock.FileName }), lock.FileName)
	files = slices.AppendSeq(files, maps.Keys(c.Extra))
	slices.Sort(files)
	for _, name := range slices.Compact(files) {
		data, mode := c.Lock, int64(0o644)
		if err := plainName(name); err != nil {
			return nil, err
		}
		if extra, ok := c.Extra[name]; ok {
			data = extra
		} else if name != lock.FileName {
			file := filepath.Join(c.Root, filepath.FromSlash(name))
			info, err := os.Stat(file)
			if err != nil {
				return nil, err
			}
			if info.Mode()&0o100 != 0 {
				mode = 0o755
			}
			if data, err = os.ReadFile(file); err != nil {
				return nil, err
			}
		}
		h := &tar.Header{Name: name, Size: int64(len(data)), Mode: mode, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if err := t.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := t.Write(data); err != nil {
			return nil, err
		}
		if b.Len() > maxCatalog {
			return nil, fmt.Errorf("the catalogue is larger than %d MiB", maxCatalog>>20)
		}
	}
	return b.Bytes(), t.Close()
}

// untar unpacks a catalogue into dir, which is empty: regular files with plain names, and
// nothing else.
func untar(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := tar.NewReader(r)
	var total int64
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, r) // what follows belongs to the digest
			return err
		}
		if err != nil {
			return fmt.Errorf("the catalogue: %w", err)
		}
		if h.Typeflag != tar.TypeReg {
			return fmt.Errorf("the catalogue holds %q, which is no regular file: refused", h.Name)
		}
		if err := plainName(h.Name); err != nil {
			return err
		}
		if total += h.Size; n >= maxFiles || total > maxCatalog || h.Size < 0 {
			return fmt.Errorf("the catalogue has more than %d files or %d MiB: refused", maxFiles, maxCatalog>>20)
		}
		if err := write(root, h, t); err != nil {
			return err
		}
	}
}

func write(root *os.Root, h *tar.Header, r io.Reader) error {
	name := filepath.FromSlash(h.Name)
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if h.Mode&0o100 != 0 {
		mode = 0o755
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}

// plainName refuses names that could leave the folder, or that only look like others.
func plainName(name string) error {
	if name == "" || name != path.Clean(name) || !filepath.IsLocal(filepath.FromSlash(name)) || strings.ContainsAny(name, "\\\x00\n") || len(name) > 1024 {
		return fmt.Errorf("the catalogue has the file name %q: refused", name)
	}
	return nil
}

// lastName is the last file of a tar that ends too early.
func lastName(r io.Reader) (name string) {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err != nil {
			return name
		}
		name = h.Name
		if _, err := io.Copy(io.Discard, t); err != nil { //nolint:gosec // G110: it is kept nowhere
			return name
		}
	}
}
