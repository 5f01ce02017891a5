package build

import (
	"archive/tar"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/apt"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/proc"
)

// debianPins are the packages as the lock has them, in the order of the catalogue.
func debianPins(d catalog.Debian, arch string) (pins []string) {
	for _, p := range d.Packages {
		pins = append(pins, p.Name+" "+p.Version+" sha256:"+p.SHA256[arch])
	}
	return pins
}

// packDebian writes a program of Debian's as an archive: bin/NAME, the libraries that it needs
// down to the C library as lib/SONAME, and each package's licence as doc/PACKAGE/copyright.
func (b *Builder) packDebian(ctx context.Context, bin catalog.Binary, work, out string) error {
	d, arch := *bin.Debian, b.arch()
	want := apt.Request{Suite: d.Suite, Snapshot: d.Snapshot, Arch: arch}
	for _, p := range d.Packages {
		if p.SHA256[arch] == "" {
			return fmt.Errorf("the catalogue has no digest of Debian's %s for %s", p.Name, arch)
		}
		want.Packages = append(want.Packages, apt.Package{Name: p.Name, Version: p.Version})
	}
	debs, err := apt.Fetch(ctx, filepath.Join(work, "work"), want)
	if err != nil {
		return err
	}
	u := &unpackedDebian{dir: filepath.Join(work, "work", "root"), links: map[string]string{}}
	for i, deb := range debs {
		// The archive's signature vouches for it, and the catalogue says which it is.
		sum, err := disk.SHA256(deb)
		if err != nil {
			return err
		}
		if sum != d.Packages[i].SHA256[arch] {
			return fmt.Errorf("%s has SHA-256 %s and should have %s", filepath.Base(deb), sum, d.Packages[i].SHA256[arch])
		}
		if err := u.add(ctx, deb); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(deb), err)
		}
	}
	files, err := u.closure(path.Clean(d.Program))
	if err != nil {
		return err
	}
	return writeArchive(out, files)
}

// unpackedDebian holds what packages have of programs, libraries and licences.
type unpackedDebian struct {
	dir   string
	links map[string]string // path of a symbolic link → path that it leads to
	files []string          // paths of regular files
}

// maxDebianFile bounds what a package may have unpacked: LLVM's library is 130 MB.
const maxDebianFile = 1 << 30

// add unpacks a package. Symbolic links are kept as a table, so that none is followed here.
func (u *unpackedDebian) add(ctx context.Context, deb string) error {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := u.read(tar.NewReader(r))
		_, _ = io.Copy(io.Discard, r) // dpkg-deb fails when nobody reads to the end
		r.CloseWithError(err)
		done <- err
	}()
	err := proc.Run(ctx, &proc.Cmd{Path: "dpkg-deb", Args: []string{"--fsys-tarfile", deb}, Stdout: w, Tail: maxDiagnostics})
	w.Close()
	return errors.Join(<-done, err)
}

func (u *unpackedDebian) read(t *tar.Reader) error {
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "./"))
		switch {
		case !filepath.IsLocal(name):
			if name != "." && name != "/" {
				return fmt.Errorf("%q leads out of the package", h.Name)
			}
		case h.Typeflag == tar.TypeSymlink:
			u.links[name] = path.Join(path.Dir(name), h.Linkname) //nolint:gosec // only looked up in this map
			if path.IsAbs(h.Linkname) {
				u.links[name] = strings.TrimPrefix(path.Clean(h.Linkname), "/")
			}
		case h.Typeflag == tar.TypeReg && h.Size <= maxDebianFile:
			file := filepath.Join(u.dir, filepath.FromSlash(name))
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return err
			}
			f, err := os.Create(file)
			if err != nil {
				return err
			}
			_, err = io.Copy(f, t)
			if err = errors.Join(err, f.Close()); err != nil {
				return err
			}
			u.files = append(u.files, name)
		}
	}
}

// resolve follows symbolic links to a file of the packages.
func (u *unpackedDebian) resolve(name string) (file string, ok bool) {
	for range 8 {
		to, linked := u.links[name]
		if !linked {
			break
		}
		name = to
	}
	return filepath.Join(u.dir, filepath.FromSlash(name)), slices.Contains(u.files, name)
}

// closure lists the program, what its dynamic section and those of its libraries ask for, and
// the licences.
func (u *unpackedDebian) closure(program string) ([]archived, error) {
	main, ok := u.resolve(program)
	if !ok {
		return nil, fmt.Errorf("no package has the program %s", program)
	}
	libraries := map[string]string{} // soname → path in the packages
	for _, name := range slices.Concat(u.files, mapKeys(u.links)) {
		if base := path.Base(name); strings.Contains(base, ".so") && libraryFolder(path.Dir(name)) {
			libraries[base] = name
		}
	}
	files := []archived{u.archived("bin/"+path.Base(program), main, 0o755)}
	seen := map[string]bool{}
	for todo := []string{main}; len(todo) > 0; todo = todo[1:] {
		needs, err := elfNeeds(todo[0])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", todo[0], err)
		}
		for _, so := range needs {
			if seen[so] {
				continue
			}
			seen[so] = true
			file, ok := u.resolve(libraries[so])
			if !ok {
				return nil, fmt.Errorf("%s needs the library %s, which no package of the catalogue's list has", filepath.Base(todo[0]), so)
			}
			files = append(files, u.archived("lib/"+so, file, 0o755))
			todo = append(todo, file)
		}
	}
	for _, name := range u.files {
		if pkg, ok := strings.CutSuffix(name, "/copyright"); ok && path.Dir(pkg) == "usr/share/doc" {
			file, _ := u.resolve(name)
			files = append(files, u.archived("doc/"+path.Base(pkg)+"/copyright", file, 0o644))
		}
	}
	return files, nil
}

func (u *unpackedDebian) archived(name, file string, mode int64) archived {
	a := archived{name: name, mode: mode, open: func() (io.ReadCloser, error) { return os.Open(file) }}
	if info, err := os.Stat(file); err == nil {
		a.size = info.Size()
	}
	return a
}

// libraryFolder: where the dynamic linker looks, such as usr/lib/x86_64-linux-gnu.
func libraryFolder(dir string) bool {
	dir = strings.TrimPrefix(dir, "usr/")
	return dir == "lib" || dir == "lib64" || path.Dir(dir) == "lib" && strings.HasSuffix(dir, "-linux-gnu")
}

// elfNeeds are the libraries that a program or library names, and its dynamic linker.
func elfNeeds(file string) ([]string, error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	needs, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	if s := f.Section(".interp"); s != nil {
		data, err := s.Data()
		if err != nil {
			return nil, err
		}
		needs = append(needs, path.Base(strings.TrimRight(string(data), "\x00")))
	}
	return needs, nil
}

func mapKeys(m map[string]string) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}
