package build

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/dirhash"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/proc"
)

// archiveFormat is part of every archive's key. Raise it when the way they are made changes.
const archiveFormat = "orrery-archive-1"

// archiveKey hashes everything that decides the bytes of an archive. No compiler has a say.
func (b *Builder) archiveKey(bin catalog.Binary, s source) (string, error) {
	h := newHasher()
	h.add("format", archiveFormat)
	h.add("name", bin.Name)
	if f := bin.Folder; f != nil {
		sum, err := s.sum(bin)
		if err != nil {
			return "", fmt.Errorf("archive %s: %w", bin.Name, err)
		}
		h.add("folder", f.Path, s.ref, sum)
		h.add("without", f.Without...)
		if f.Flat {
			h.add("flat")
		}
	}
	if d := bin.Debian; d != nil {
		h.add("debian", d.Suite, d.Program, b.arch())
		h.add("packages", debianPins(*d, b.arch())...)
	}
	return h.sum(), nil
}

// packFolder writes bin's folder of a module as an archive.
func (b *Builder) packFolder(ctx context.Context, bin catalog.Binary, s source, out string) error {
	files, done, err := b.folder(ctx, bin, s)
	if err != nil {
		return err
	}
	defer func() { _ = done() }() // of a file that was only read
	return writeArchive(out, files)
}

// Chart yields the files of a chart inside a module, by their names relative to its folder.
// Errors are those of fetching the module, or say that it is not what go.sum pins.
func (b *Builder) Chart(ctx context.Context, c catalog.ModuleChart) (map[string][]byte, error) {
	bin := catalog.Binary{Name: "chart", Module: c.Module, Dir: c.Dir, Folder: &catalog.Folder{Path: c.Folder}}
	s, err := b.source(bin)
	if err != nil {
		return nil, err
	}
	files, done, err := b.folder(ctx, bin, s)
	if err != nil {
		return nil, err
	}
	defer func() { _ = done() }() // of a file that was only read
	all := map[string][]byte{}
	for _, f := range files {
		r, err := f.open()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		data, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		all[f.name] = data
	}
	return all, nil
}

// folder lists bin's folder of a module, to be read until done is called. The module comes
// as Go's proxy has it, and is held to go.sum as a whole.
func (b *Builder) folder(ctx context.Context, bin catalog.Binary, s source) (files []archived, done func() error, err error) {
	module, err := b.moduleZip(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	want, err := s.sum(bin)
	if err != nil {
		return nil, nil, err
	}
	got, err := dirhash.HashZip(module, dirhash.Hash1)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w; 'go clean -modcache' has it fetched again", module, err)
	}
	if got != want {
		return nil, nil, fmt.Errorf("%s is not what go.sum pins: %s, want %s; 'go clean -modcache' has it fetched again", module, got, want)
	}
	r, err := zip.OpenReader(module)
	if err != nil {
		return nil, nil, err
	}
	root, _, _ := strings.Cut(s.ref, "@")
	prefix := s.ref + strings.TrimPrefix(bin.Folder.Path, root) + "/"
	for _, f := range r.File {
		name, inside := strings.CutPrefix(f.Name, prefix)
		left := slices.ContainsFunc(bin.Folder.Without, func(w string) bool { return name == w || strings.HasPrefix(name, w+"/") })
		if !inside || left || strings.HasSuffix(name, "/") {
			continue
		}
		if bin.Folder.Flat {
			name = path.Base(name)
		}
		files = append(files, archived{name: name, mode: 0o644, size: int64(f.UncompressedSize64), open: f.Open})
	}
	if len(files) == 0 {
		return nil, nil, errors.Join(fmt.Errorf("module %s has no folder %s", s.ref, bin.Folder.Path), r.Close())
	}
	return files, r.Close, nil
}

// moduleZip is where Go has the module of s as it was downloaded.
func (b *Builder) moduleZip(ctx context.Context, s source) (string, error) {
	tc, err := b.toolchain(ctx, s)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = proc.Run(ctx, &proc.Cmd{
		// Outside of every module. What comes is compared with go.sum, so no other database
		// of checksums is asked.
		Path: tc.path, Args: []string{"mod", "download", "-json", s.ref}, Dir: "/",
		Env: b.environment(tc, false, filepath.Join(b.opts.CacheDir, goCachePrefix), "GOSUMDB=off"), Stdout: &out, Tail: maxDiagnostics,
	})
	var m struct{ Zip, Error string }
	if jsonErr := json.Unmarshal(out.Bytes(), &m); err != nil || jsonErr != nil || m.Zip == "" {
		if m.Error != "" {
			return "", fmt.Errorf("download %s: %s", s.ref, m.Error)
		}
		return "", fmt.Errorf("download %s: %w", s.ref, err)
	}
	return m.Zip, nil
}

// archived is a file that goes into an archive.
type archived struct {
	name string // with slashes, relative
	mode int64
	size int64
	open func() (io.ReadCloser, error)
}

// writeArchive makes the same bytes of the same files: nothing of the machine or the time
// gets in.
func writeArchive(to string, files []archived) error {
	slices.SortFunc(files, func(a, b archived) int { return strings.Compare(a.name, b.name) })
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	w, last := tar.NewWriter(out), ""
	for _, f := range files {
		if !filepath.IsLocal(f.name) || f.name == last {
			return fmt.Errorf("%q is no name for a file of an archive, or that of two", f.name)
		}
		last = f.name
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: f.size, Format: tar.FormatPAX}); err != nil {
			return err
		}
		if err := copyArchived(w, f); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return out.Close()
}

func copyArchived(w io.Writer, f archived) error {
	r, err := f.open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}
