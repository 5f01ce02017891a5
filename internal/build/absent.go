package build

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/proc"
	"github.com/orrery-dev/orrery/internal/ui"
)

// generator is the program that makes stand-ins of modules that are left out, in the
// repository's own module. The Go that compiles what it writes compiles it too.
var generator = catalog.Binary{Name: "generate", Module: "//", Package: "./internal/absent/generate"}

// leavesOut notes what bin leaves out and what makes the stand-ins.
func (b *Builder) leavesOut(bin catalog.Binary, s *source) error {
	g, err := b.source(generator)
	if err != nil {
		return fmt.Errorf("what makes stand-ins of the modules that it leaves out: %w", err)
	}
	for _, r := range s.mod.Replace {
		if r.New.Version == "" && !filepath.IsLocal(r.New.Path) && !isBeside(r.New.Path) {
			return fmt.Errorf("go.mod in %s replaces %s with a folder elsewhere (%s); with absent, folders must be below go.mod's or beside it",
				s.dir, r.Old.Path, r.New.Path)
		}
	}
	s.absent, s.generator = bin.Absent, &g
	return nil
}

// isBeside says whether path is a folder beside another one: ../NAME.
func isBeside(path string) bool {
	dir, name := filepath.Split(filepath.Clean(path))
	return dir == "../" && filepath.IsLocal(name) && name != "."
}

// addAbsent hashes what stand-ins follow from, beside go.mod and go.sum.
func (s source) addAbsent(h *hasher) error {
	list, err := os.ReadFile(filepath.Join(s.dir, s.absent))
	if err != nil {
		return err
	}
	h.add("absent", s.absent, string(list))
	_, _, err = s.generator.split(h, h)
	return err
}

// standIns copies the folder of src below work, with stand-ins of the modules that bin leaves
// out and a go.mod that names them. Declarations are read from the real modules.
func (b *Builder) standIns(
	ctx context.Context, bin catalog.Binary, src source, cache goCache, work string, g grant,
) (dir string, usage proc.Usage, err error) {
	b.progress(bin.Name, ui.Event{Message: fmt.Sprintf("%s %s: making stand-ins for what it leaves out", bin.Name, bin.Version)})
	tmp := filepath.Join(work, "work")
	dir = filepath.Join(tmp, "source")
	if err := os.CopyFS(dir, os.DirFS(src.dir)); err != nil {
		return "", usage, fmt.Errorf("copy %s: %w", src.dir, err)
	}
	for _, r := range src.mod.Replace {
		if r.New.Version == "" && isBeside(r.New.Path) {
			if err := os.CopyFS(filepath.Join(dir, r.New.Path), os.DirFS(filepath.Join(src.dir, r.New.Path))); err != nil {
				return "", usage, fmt.Errorf("copy %s: %w", r.New.Path, err)
			}
		}
	}
	var said bytes.Buffer
	run := func(c *proc.Cmd) error {
		said.Reset()
		c.Stderr, c.Tail = &said, maxDiagnostics
		c.Started = func(id proc.Identity) { lower(id.PID, bin) }
		err := proc.Run(ctx, c)
		usage.CPU += c.Usage.CPU
		usage.MaxRSS = max(usage.MaxRSS, c.Usage.MaxRSS)
		return err
	}
	env := b.environment(b.go_, false, cache.dir, append(g.env, "GOTMPDIR="+tmp)...)
	program := filepath.Join(tmp, generator.Name)
	// It runs here, whatever bin is made for.
	if err := run(&proc.Cmd{
		Path: b.go_.path, Args: []string{"build", "-trimpath", "-buildvcs=false", "-o", program, generator.Package},
		Dir: src.generator.dir, Env: append(env[:len(env):len(env)], targetArch(runtime.GOARCH)...),
	}); err != nil {
		return "", usage, fmt.Errorf("compile what makes stand-ins: %w", err)
	}
	args := []string{"-tags", strings.Join(bin.Tags, ","), dir, src.absent, bin.Package}
	if err := run(&proc.Cmd{Path: program, Args: args, Env: env}); err != nil {
		return "", usage, err
	}
	for line := range strings.Lines(said.String()) {
		b.warn("build/"+bin.Name, strings.TrimSpace(line))
	}
	return dir, usage, nil
}
