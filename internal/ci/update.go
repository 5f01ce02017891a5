package ci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/failure"
)

// Updated is what became of a module that a go.mod of the clone requires.
type Updated struct {
	Module string `json:"module"`
	In     string `json:"in"` // folder of the go.mod
	From   string `json:"from"`
	To     string `json:"to"` // the same as From when nothing newer would do
	// Left says why newer versions were left alone.
	Left []string `json:"left,omitempty"`
	// Notes are checks that could not be made.
	Notes []string `json:"notes,omitempty"`
}

// maxTried is how many versions of a module are tried, from the newest down.
const maxTried = 3

// Update takes, wherever a go.mod of the clone requires the module itself, the newest version
// that builds, passes the tests of that module's folder, and has no vulnerability that is called.
// Without a module: all of the command line's own. A go.mod whose module could not be
// updated is as it was.
func (r *Runner) Update(ctx context.Context, module string) ([]Updated, error) {
	files, err := r.modFiles(module == "")
	if err != nil {
		return nil, err
	}
	var rows []Updated
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return rows, err
		}
		mod, err := modfile.Parse(file, data, nil)
		if err != nil {
			return rows, fmt.Errorf("read the modules that are required: %w", err)
		}
		for _, q := range mod.Require {
			if q.Indirect || module != "" && q.Mod.Path != module {
				continue
			}
			u := update{Runner: r, dir: filepath.Dir(file), tools: len(mod.Tool) > 0}
			u.In, _ = filepath.Rel(r.Root, u.dir)
			u.Module, u.From, u.To = q.Mod.Path, q.Mod.Version, q.Mod.Version
			if slices.ContainsFunc(mod.Replace, func(p *modfile.Replace) bool { return p.Old.Path == q.Mod.Path }) {
				u.Left = []string{"it is replaced in go.mod: somebody has a reason"}
			} else if err := u.run(ctx); err != nil {
				return rows, err
			}
			rows = append(rows, u.Updated)
		}
	}
	if len(rows) == 0 && module != "" {
		return nil, failure.Usagef("no go.mod of this clone requires %s itself", module)
	}
	return rows, nil
}

// modFiles are those of the clone, the command line's first; root: that one only.
func (r *Runner) modFiles(root bool) ([]string, error) {
	files := []string{filepath.Join(r.Root, "go.mod")}
	if root {
		return files, nil
	}
	err := filepath.WalkDir(r.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "testdata" || d.Name() == "dist") {
			return fs.SkipDir
		}
		if d.Name() == "go.mod" && path != files[0] {
			files = append(files, path)
		}
		return nil
	})
	return files, err
}

// update is that of one module in one go.mod.
type update struct {
	*Runner
	Updated
	dir   string
	tools bool
}

func (u *update) goes(ctx context.Context, args ...string) (string, error) {
	cmd := u.command(ctx, "go", args...)
	cmd.Dir = u.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		said := strings.TrimSpace(stderr.String())
		if said == "" {
			said = strings.TrimSpace(string(out)) // of go test
		}
		first, _, _ := strings.Cut(said, "\n")
		if strings.HasPrefix(first, "#") { // the package that the next line is about
			_, first, _ = strings.Cut(said, "\n")
			first, _, _ = strings.Cut(first, "\n")
		}
		return "", fmt.Errorf("go %s: %w: %s", args[0], err, first)
	}
	return strings.TrimSpace(string(out)), nil
}

func (u *update) run(ctx context.Context) error {
	out, err := u.goes(ctx, "list", "-mod=mod", "-m", "-versions", "-f", `{{join .Versions " "}}`, u.Module)
	if err != nil {
		u.Left = append(u.Left, "its versions cannot be asked for: "+err.Error())
		return ctx.Err()
	}
	newer := slices.DeleteFunc(strings.Fields(out), func(v string) bool {
		return semver.Compare(v, u.From) <= 0 || semver.Prerelease(v) != "" && semver.Prerelease(u.From) == ""
	})
	slices.SortFunc(newer, func(a, b string) int { return semver.Compare(b, a) })
	if len(newer) > maxTried {
		newer = newer[:maxTried]
	}
	before := map[string][]byte{}
	for _, name := range []string{"go.mod", "go.sum"} {
		file := filepath.Join(u.dir, name)
		if before[file], err = os.ReadFile(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for _, v := range newer {
		fmt.Fprintf(u.Out, "%s: %s %s -> %s\n", u.In, u.Module, u.From, v)
		notes, err := u.try(ctx, v)
		if err == nil && ctx.Err() == nil {
			u.To, u.Notes = v, notes
			return nil
		}
		for file, data := range before {
			if data == nil {
				err = errors.Join(err, os.RemoveAll(file))
			} else if e := atomicfile.Write(file, data, 0o644); e != nil {
				return fmt.Errorf("put back %s: %w", file, e)
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		u.Left = append(u.Left, v+": "+err.Error())
	}
	return nil
}

// try makes all checks of a version.
func (u *update) try(ctx context.Context, version string) (notes []string, err error) {
	what := []string{"./..."}
	if u.tools {
		what = append(what, "tool")
	}
	for _, args := range [][]string{
		{"get", u.Module + "@" + version}, {"mod", "tidy"}, append([]string{"build", "-o", os.DevNull}, what...), {"test", "./..."},
	} {
		if _, err := u.goes(ctx, args...); err != nil {
			return nil, err
		}
	}
	err = u.vulnerabilities(ctx, u.dir)
	if s, ok := errors.AsType[Skip](err); ok {
		return []string{version + ": " + s.Error()}, nil
	}
	return nil, err
}

// updates is Update as a job: what became of each module is in its log.
func updates(ctx context.Context, r *Runner) error {
	rows, err := r.Update(ctx, "")
	for _, u := range rows {
		fmt.Fprintf(r.Out, "%s: %s -> %s\n", u.Module, u.From, u.To)
		for _, why := range append(u.Left, u.Notes...) {
			fmt.Fprintf(r.Out, "  %s\n", why)
		}
	}
	return err
}
