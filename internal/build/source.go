package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"hash"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/orrery-dev/orrery/internal/catalog"
)

// keyFormat is part of every key. Raise it when the way binaries are made changes in a
// way that neither flags nor tools show.
const keyFormat = "orrery-binary-1"

// source is where a binary comes from.
type source struct {
	dir     string // absolute folder of go.mod
	mod     *modfile.File
	modData []byte
	own     string // folder of the package relative to dir, "" when it is another module's
	ref     string // for people: MODULE@VERSION, or our own module's path

	absent    string  // the list of modules that are left out, relative to dir; often ""
	generator *source // what makes stand-ins of them
}

// source finds the module of bin and reads its go.mod.
func (b *Builder) source(bin catalog.Binary) (source, error) {
	var s source
	switch rest, fromRoot := strings.CutPrefix(bin.Module, "//"); {
	case bin.Name == "" || bin.Name != filepath.Base(bin.Name) || bin.Name == "." || bin.Name == "..":
		return s, fmt.Errorf("binary %q: the name must be a file name", bin.Name)
	case bin.Package == "" && !bin.Archive():
		return s, fmt.Errorf("binary %s: no package was given", bin.Name)
	case bin.Debian != nil:
		s.ref = "debian " + bin.Debian.Suite
		return s, nil
	case bin.Dir != "":
		s.dir = bin.Dir
	case fromRoot && b.opts.RepoRoot != "":
		s.dir = filepath.Join(b.opts.RepoRoot, rest)
	default:
		return s, fmt.Errorf("binary %s: the folder of module %q is not known; load it through the catalogue", bin.Name, bin.Module)
	}
	if !filepath.IsAbs(s.dir) {
		return s, fmt.Errorf("binary %s: folder %q is not absolute", bin.Name, s.dir)
	}
	file := filepath.Join(s.dir, "go.mod")
	data, err := os.ReadFile(file)
	if err != nil {
		return s, fmt.Errorf("binary %s: %w", bin.Name, err)
	}
	if s.mod, err = modfile.Parse(file, data, nil); err != nil {
		return s, fmt.Errorf("binary %s: %w", bin.Name, err)
	}
	if s.mod.Module == nil {
		return s, fmt.Errorf("binary %s: %s names no module", bin.Name, file)
	}
	s.modData = data
	s.ref = s.mod.Module.Mod.Path
	switch {
	case bin.Folder != nil:
		if s.ref = provider(s.mod, bin.Folder.Path); s.ref == "" {
			return s, fmt.Errorf("archive %s: no module in %s provides folder %s", bin.Name, file, bin.Folder.Path)
		}
	case bin.Package == "." || strings.HasPrefix(bin.Package, "./"):
		s.own = filepath.Clean(bin.Package)
	case within(s.ref, bin.Package):
		s.own = "." + strings.TrimPrefix(bin.Package, s.ref)
	default:
		if s.ref = provider(s.mod, bin.Package); s.ref == "" {
			return s, fmt.Errorf("binary %s: no module in %s provides package %s", bin.Name, file, bin.Package)
		}
	}
	if bin.Absent != "" {
		if err := b.leavesOut(bin, &s); err != nil {
			return s, fmt.Errorf("binary %s: %w", bin.Name, err)
		}
	}
	return s, nil
}

// within reports whether package pkg lies in module mod.
func within(mod, pkg string) bool {
	return pkg == mod || strings.HasPrefix(pkg, mod+"/")
}

// provider is the required module with the longest path that pkg lies in, as MODULE@VERSION.
func provider(f *modfile.File, pkg string) string {
	best, ref := "", ""
	for _, r := range f.Require {
		if within(r.Mod.Path, pkg) && len(r.Mod.Path) > len(best) {
			best, ref = r.Mod.Path, r.Mod.String()
		}
	}
	return ref
}

// goVersion is the least Go that the module wants, such as "1.26.6".
func (s source) goVersion() string {
	if s.mod.Go == nil {
		return ""
	}
	return s.mod.Go.Version
}

// importPath is the full name of bin's main package.
func (s source) importPath(bin catalog.Binary) string {
	if s.own == "" {
		return bin.Package
	}
	return path.Join(s.mod.Module.Mod.Path, filepath.ToSlash(s.own))
}

// key hashes everything that decides the bytes of bin.
func (b *Builder) key(ctx context.Context, bin catalog.Binary, s source) (string, error) {
	if bin.Archive() {
		return b.archiveKey(bin, s)
	}
	goVersion, err := b.goVersion(ctx, s)
	if err != nil {
		return "", fmt.Errorf("binary %s: %w", bin.Name, err)
	}
	h := newHasher()
	h.add("format", keyFormat)
	h.add("go", goVersion)
	h.add("target", append([]string{"linux"}, targetArch(b.arch())...)...)
	h.add("name", bin.Name)
	h.add("package", bin.Package)
	h.add("tags", bin.Tags...)
	h.add("ldflags", ldflags(bin))
	h.add("cgo", strconv.FormatBool(bin.CGO))
	if bin.CGO {
		libs, err := b.cToolchain(ctx, bin.CHeaders)
		if err != nil {
			return "", fmt.Errorf("binary %s: %w", bin.Name, err)
		}
		h.add("c", libs)
	}
	if err := s.addTo(h); err != nil {
		return "", fmt.Errorf("binary %s: read its source: %w", bin.Name, err)
	}
	return h.sum(), nil
}

// addTo hashes the source: go.mod and go.sum, which fix every foreign byte, and our own
// packages, as far as the binary consists of them. Of a module that imports nothing
// foreign only the directives count, so that a tool of the main module is not built again
// for every dependency that the rest of the module changes.
func (s source) addTo(h *hasher) error {
	_, _, err := s.split(h, h)
	return err
}

// split hashes the source in two parts: what go.mod and go.sum pin, and what is ours. It
// reports which of them has a say in the binary.
func (s source) split(pins, tree *hasher) (pinned, owned bool, err error) {
	pinned = s.own == ""
	if s.own != "" {
		owned = true
		if pinned, err = s.addPackage(tree, s.own, map[string]bool{}); err != nil {
			return false, false, err
		}
		if !pinned {
			tree.add("module", s.mod.Module.Mod.Path, s.goVersion())
			for _, g := range s.mod.Godebug {
				tree.add("godebug", g.Key, g.Value)
			}
			return false, true, nil
		}
	}
	pins.add("go.mod", string(s.modData))
	sum, err := os.ReadFile(filepath.Join(s.dir, "go.sum"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, false, err
	}
	pins.add("go.sum", string(sum))
	for _, r := range s.mod.Replace {
		if r.New.Version != "" {
			continue
		}
		owned = true
		// A folder beside ours, which no checksum covers.
		dir := r.New.Path
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(s.dir, dir)
		}
		tree.add("replace", r.Old.String())
		if err := addTree(tree, dir); err != nil {
			return false, false, err
		}
	}
	if s.absent != "" {
		owned = true
		if err := s.addAbsent(tree); err != nil {
			return false, false, err
		}
	}
	return pinned, owned, nil
}

// sourceExt are the endings of files that `go build` may take from a package's folder.
var sourceExt = []string{".go", ".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".s", ".S", ".sx", ".syso"}

// addPackage hashes one of our own packages and those of our own that it imports, and
// reports whether any imports another module's. Build constraints are not evaluated: a
// file too many costs a rebuild, a file too few would be a stale binary.
func (s source) addPackage(h *hasher, rel string, seen map[string]bool) (foreign bool, err error) {
	if seen[rel] {
		return false, nil
	}
	seen[rel] = true
	dir := filepath.Join(s.dir, rel)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	h.add("package folder", filepath.ToSlash(rel))
	var imports []string
	embeds, found := false, false
	for _, e := range entries {
		if e.IsDir() || !slices.Contains(sourceExt, filepath.Ext(e.Name())) || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return false, err
		}
		h.add("file", e.Name(), string(data))
		if filepath.Ext(e.Name()) != ".go" {
			continue
		}
		found = true
		embeds = embeds || bytes.Contains(data, []byte("//go:embed"))
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, e.Name()), data, parser.ImportsOnly)
		if err != nil {
			return false, err
		}
		for _, i := range f.Imports {
			if p, err := strconv.Unquote(i.Path.Value); err == nil {
				imports = append(imports, p)
			}
		}
	}
	if !found {
		return false, fmt.Errorf("%s holds no Go files", dir)
	}
	if embeds {
		if err := addTree(h, dir); err != nil {
			return false, err
		}
	}
	slices.Sort(imports)
	for _, p := range slices.Compact(imports) {
		first, _, _ := strings.Cut(p, "/")
		switch mod := s.mod.Module.Mod.Path; {
		case within(mod, p):
			f, err := s.addPackage(h, "."+strings.TrimPrefix(p, mod), seen)
			if err != nil {
				return false, err
			}
			foreign = foreign || f
		case strings.Contains(first, "."):
			foreign = true
		}
	}
	return foreign, nil
}

// addTree hashes every file below dir, except what belongs to modules of their own.
func addTree(h *hasher, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if path != dir {
				if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
					return filepath.SkipDir
				}
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		h.add("tree", filepath.ToSlash(rel), string(data))
		return nil
	})
}

// targetArch is the processor that binaries are made for, as go env calls it. The
// baseline of each architecture is fixed, or two machines would disagree on the bytes.
func targetArch(arch string) []string {
	switch arch {
	case "amd64":
		return []string{"GOARCH=amd64", "GOAMD64=v1"}
	case "arm64":
		return []string{"GOARCH=arm64", "GOARM64=v8.0"}
	default:
		return []string{"GOARCH=" + arch}
	}
}

// ldflags leaves out symbols, debug data and build IDs, none of which a node needs and
// the last of which differs between caches.
func ldflags(bin catalog.Binary) string {
	return strings.Join(append([]string{"-s", "-w", "-buildid="}, strings.Fields(bin.LDFlags)...), " ")
}

// hasher hashes labelled lists of strings so that no two different inputs run into the
// same bytes.
type hasher struct{ h hash.Hash }

func newHasher() *hasher { return &hasher{sha256.New()} }

func (h *hasher) add(label string, values ...string) {
	h.str(label)
	h.num(len(values))
	for _, v := range values {
		h.str(v)
	}
}

func (h *hasher) str(s string) {
	h.num(len(s))
	h.h.Write([]byte(s))
}

func (h *hasher) num(n int) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(n))
	h.h.Write(b[:])
}

func (h *hasher) sum() string { return hex.EncodeToString(h.h.Sum(nil)) }
