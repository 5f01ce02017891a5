package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/lock"
)

// Platform is what the builder makes, as OCI names it: "linux/amd64".
func Platform() string { return "linux/" + runtime.GOARCH }

// Describe says what bin is made from and, when it is built, what it is. It compiles
// nothing. CPUSeconds is what its build took here, which is less than that of a cold
// build when the compiler's cache was warm.
func (b *Builder) Describe(ctx context.Context, bin catalog.Binary) (lock.Binary, error) {
	src, err := b.source(bin)
	if err != nil {
		return lock.Binary{}, err
	}
	key, err := b.key(ctx, bin, src)
	if err != nil {
		return lock.Binary{}, err
	}
	if bin.Archive() {
		return b.describeArchive(bin, src, key)
	}
	goVersion, err := b.goVersion(ctx, src)
	if err != nil {
		return lock.Binary{}, fmt.Errorf("binary %s: %w", bin.Name, err)
	}
	d := lock.Binary{Module: src.ref, Package: bin.Package, Go: goVersion, Links: bin.Links}
	d.Flags = describeFlags((&goRun{bin: bin}).flags())
	cgo := "CGO_ENABLED=0"
	if bin.CGO {
		cgo = "CGO_ENABLED=1"
		libs, err := b.cToolchain(ctx, bin.CHeaders)
		if err != nil {
			return d, err
		}
		d.CTools = cTools(libs)
	}
	d.Flags = append(d.Flags, cgo)
	d.Flags = append(d.Flags, targetArch(b.arch())...)
	if d.Sum, err = src.sum(bin); err != nil {
		return d, fmt.Errorf("binary %s: %w", bin.Name, err)
	}
	pins, tree := newHasher(), newHasher()
	pinned, owned, err := src.split(pins, tree)
	if err != nil {
		return d, fmt.Errorf("binary %s: read its source: %w", bin.Name, err)
	}
	if pinned {
		d.Pins = "sha256:" + pins.sum()
	}
	if owned {
		d.Tree = "sha256:" + tree.sum()
	}
	b.describeCached(&d, bin, key)
	return d, nil
}

// describeCached adds what only the file tells, if it is built.
func (b *Builder) describeCached(d *lock.Binary, bin catalog.Binary, key string) {
	switch m, err := b.store.lookup(key); {
	case err == nil:
		d.SHA256, d.CPUSeconds = m.SHA256, m.CPUSeconds
	case !errors.Is(err, fs.ErrNotExist):
		b.opts.Log.Warn("a cached binary is damaged and will be built again", "binary", bin.Name, "error", err)
	}
}

// describeArchive is Describe for what is packed and not compiled.
func (b *Builder) describeArchive(bin catalog.Binary, src source, key string) (d lock.Binary, err error) {
	d.Module = src.ref
	if f := bin.Folder; f != nil {
		d.Kind, d.Package = lock.KindFolder, f.Path
		for _, w := range f.Without {
			d.Flags = append(d.Flags, "without "+w)
		}
		if f.Flat {
			d.Flags = append(d.Flags, "flat")
		}
		if d.Sum, err = src.sum(bin); err != nil {
			return d, fmt.Errorf("archive %s: %w", bin.Name, err)
		}
	} else {
		d.Kind, d.Package, d.Packages = lock.KindDebian, bin.Debian.Program, debianPins(*bin.Debian, b.arch())
	}
	b.describeCached(&d, bin, key)
	return d, nil
}

// sum is the go.sum line of the module that bin's package is in; empty for our own.
func (s source) sum(bin catalog.Binary) (string, error) {
	if s.own != "" || bin.Debian != nil {
		return "", nil
	}
	path, version, _ := strings.Cut(s.ref, "@")
	for _, r := range s.mod.Replace {
		if r.Old.Path == path && (r.Old.Version == "" || r.Old.Version == version) {
			path, version = r.New.Path, r.New.Version
		}
	}
	file := filepath.Join(s.dir, "go.sum")
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == path && f[1] == version {
			return f[2], nil
		}
	}
	return "", fmt.Errorf("%s has no hash of %s@%s; run `go mod tidy` there and commit the result", file, path, version)
}

// describeFlags writes each flag, and each of the linker's, as one element, so that a
// difference names just what differs.
func describeFlags(flags []string) (out []string) {
	for i := 0; i < len(flags); i++ {
		switch f := flags[i]; f {
		case "-tags":
			i++
			out = append(out, "-tags="+flags[i])
		case "-ldflags":
			i++
			words := strings.Fields(flags[i])
			for n := 0; n < len(words); n++ {
				word := words[n]
				if word == "-X" && n+1 < len(words) {
					n++
					word += " " + words[n]
				}
				out = append(out, "-ldflags="+word)
			}
		default:
			out = append(out, f)
		}
	}
	return out
}

// cTools turns the description that is part of the key into a list for people.
func cTools(description string) []string {
	var out []string
	for line := range strings.Lines(description) {
		line = strings.TrimSpace(line)
		for _, prefix := range []string{"gcc: ", "ld: ", "dpkg-query: "} {
			line = strings.TrimPrefix(line, prefix)
		}
		if line = strings.TrimSuffix(line, " installed"); line != "" {
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return out
}
