package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/apt"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/driver/native"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/licence"
	"github.com/orrery-dev/orrery/internal/sbom"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// objectsDir of the cache has what nodes of all environments compiled; see
// internal/clangcache.
const objectsDir = "objects"

// archives lays out the archives of the node distribution, each as a folder of its name beside
// the programs'; and, where there is a compiler among them, the folder that nodes share what
// they compile in.
func (p *platform) archives(ctx context.Context) error {
	var g errgroup.Group
	for _, bin := range p.catalog.Distribution.Archives {
		g.Go(func() error { return p.unpack(ctx, bin) })
		if bin.Debian != nil {
			g.Go(p.shareObjects)
		}
	}
	return g.Wait()
}

// unpack places an archive as a program is placed, and lays out its files for the nodes.
func (p *platform) unpack(ctx context.Context, bin catalog.Binary) error {
	dir := filepath.Join(p.stateDir, "dist", bin.Name)
	if cached, err := p.supply.Cached(ctx, bin); err == nil && !cached {
		if clang := p.hostCompiler(ctx, bin); clang != "" {
			if err := linkCompiler(dir, clang); err != nil {
				return err
			}
			return native.Placed(p.stateDir, bin.Name)
		}
	}
	digest, err := p.place(ctx, bin)
	if err != nil {
		return err
	}
	damaged, err := image.Unpack(ctx, cacheRoot(), strings.TrimPrefix(digest, "sha256:"), dir, p.programFile(p.catalog, bin))
	if damaged != nil && err == nil {
		p.sink.Emit(ui.Event{Type: ui.TypeWarning, Step: "cluster", Phase: "cluster", Message: fmt.Sprintf("what archive %s was unpacked to had changed, and was unpacked again: %v", bin.Name, damaged)})
	}
	if err != nil {
		return err
	}
	return native.Placed(p.stateDir, bin.Name)
}

// linkCompiler has nodes run the host's own clang, which they see where the host does.
func linkCompiler(dir, clang string) error {
	at := filepath.Join(dir, "bin", "clang")
	if to, err := os.Readlink(at); err == nil && to == clang {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	return os.Symlink(clang, at)
}

// usesHostCompiler: the environment's nodes run the host's compiler in place of bin.
func (s *session) usesHostCompiler(bin catalog.Binary) bool {
	info, err := os.Lstat(filepath.Join(s.stateDir, "dist", bin.Name, "bin", "clang"))
	return bin.Debian != nil && err == nil && info.Mode().Type() == fs.ModeSymlink
}

func (p *platform) shareObjects() error {
	shared, at := filepath.Join(cacheRoot(), objectsDir), filepath.Join(p.stateDir, "dist", objectsDir)
	if err := os.MkdirAll(shared, 0o700); err != nil {
		return err
	}
	if to, err := os.Readlink(at); err == nil && to == shared {
		return nil
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	return os.Symlink(shared, at)
}

// hostCompiler is the host's own clang where bin is the compiler, and nodes can see it; empty
// otherwise.
func (p *platform) hostCompiler(ctx context.Context, bin catalog.Binary) string {
	if bin.Debian == nil {
		return ""
	}
	clang, err := native.HostClang(ctx)
	if err == nil {
		clang, err = filepath.EvalSymlinks(clang)
	}
	if err != nil || !strings.HasPrefix(clang, "/usr/") { // nodes see the host's /usr
		return ""
	}
	return clang
}

// archive is all that is known of an archive of the nodes, which is packed if it is not.
func (w *workshop) archive(ctx context.Context, bin catalog.Binary) (sbom.Archive, error) {
	files, err := w.builder.ArchiveFiles(ctx, bin)
	if err != nil {
		return sbom.Archive{}, err
	}
	entry, err := w.builder.Describe(ctx, bin)
	if err != nil {
		return sbom.Archive{}, err
	}
	return sbom.Archive{Name: bin.Name, Version: bin.Version, Platform: w.builder.Platform(), SHA256: entry.SHA256, Files: files, Entry: entry}, nil
}

// archiveLicences holds what an archive is made of to the licence policy, which has to know each
// of it: the licences are not looked for in texts.
func (w *workshop) archiveLicences(a sbom.Archive) (map[string]string, error) {
	policy, err := licence.LoadPolicy(filepath.Join(w.catalog.Root, policyFile))
	if err != nil {
		return nil, usageError{err}
	}
	found := map[string]string{}
	var bad []error
	for _, key := range sbom.LicenceKeys(a.Entry) {
		if found[key], err = policy.Decide(key, licence.Unknown); err != nil {
			bad = append(bad, fmt.Errorf("archive %s: %w", a.Name, err))
		}
	}
	if len(bad) > 0 {
		return nil, refusedError{fmt.Errorf("%s does not allow it:\n%w\n  add an exception with the licence and the reason, or leave it out", policyFile, errors.Join(bad...))}
	}
	return found, nil
}

// compiler of BPF programs: Debian's, where it is in the cache or can be fetched, or came in a
// bundle; else the host's own.
func (s *session) compiler() native.Compiler {
	return func(ctx context.Context) (string, error) {
		bin, have, err := s.ownCompiler(ctx)
		switch {
		case err != nil:
			return "", err
		case have:
			return bin.Name + " " + bin.Version, nil
		}
		if s.fromBundle() {
			return "", fmt.Errorf("bundle %s was made for another network plugin: it has no %s", s.bundle, bin.Name)
		}
		unavailable := apt.Available()
		if unavailable == nil {
			return fmt.Sprintf("%s %s, fetched from Debian,", bin.Name, bin.Version), nil
		}
		clang, err := native.HostClang(ctx)
		if err != nil {
			return "", fmt.Errorf("%w; %w", unavailable, err)
		}
		return clang, nil
	}
}

// ownCompiler is the compiler of the catalogue, and whether it is on this machine.
func (s *session) ownCompiler(ctx context.Context) (bin catalog.Binary, have bool, err error) {
	cat, err := s.loadCatalog()
	if err != nil {
		return bin, false, err
	}
	for _, a := range cat.Distribution.For(spec.PluginCilium).Archives {
		if a.Debian == nil {
			continue
		}
		locked, err := loadLocked(cat.Root)
		if err != nil {
			return a, false, err
		}
		_, supply, err := s.suppliers(cat.Root, locked, s.spec.Images.Sources, ui.Discard)
		if err != nil {
			return a, false, err
		}
		have, err = supply.Cached(ctx, a)
		return a, have, err
	}
	return bin, false, errors.New("the catalogue names no compiler of BPF programs for network plugin cilium")
}
