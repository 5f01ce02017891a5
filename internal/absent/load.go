package absent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// listed is a package as the go command lists it.
type listed struct {
	ImportPath, Name, Dir string
	GoFiles, Imports      []string
	ImportMap             map[string]string
	Module                *struct{ Path, GoVersion string }
}

// of reports whether p is of one of modules.
func (p *listed) of(modules map[string]bool) bool { return p.Module != nil && modules[p.Module.Path] }

// CommandError says that the go command failed.
type CommandError struct {
	Args   []string
	Stderr string // as it was said
	Err    error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("go %s: %v\n%s", strings.Join(e.Args[:min(2, len(e.Args))], " "), e.Err, e.Stderr)
}

func (e *CommandError) Unwrap() error { return e.Err }

func (o Options) goCommand(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	var said bytes.Buffer
	cmd.Dir, cmd.Stderr = o.Dir, &said
	// What is written stands for packages without C: a module is left out whole.
	cmd.Env = append(append([]string{}, o.Env...), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		return nil, &CommandError{args, strings.TrimSpace(said.String()), err}
	}
	return out, nil
}

// list returns the packages that the program consists of, each after those that it imports.
// What is missing in the module cache is fetched from GOPROXY, and held to go.sum.
func (o Options) list(ctx context.Context) ([]*listed, error) {
	args := []string{"list", "-mod=readonly", "-deps", "-json=ImportPath,Name,Dir,GoFiles,Imports,ImportMap,Module"}
	if len(o.Tags) > 0 {
		args = append(args, "-tags", strings.Join(o.Tags, ","))
	}
	out, err := o.goCommand(ctx, append(args, o.Package)...)
	if err != nil {
		return nil, err
	}
	var all []*listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &listed{}
		if err := d.Decode(p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("what go list says: %w", err)
		}
		all = append(all, p)
	}
}

// load reads the program and marks what it uses of the modules that are left out.
func load(ctx context.Context, o Options, l List) (*uses, error) {
	all, err := o.list(ctx)
	if err != nil {
		return nil, err
	}
	u := &uses{list: l, moduleOf: map[string]string{}, packages: map[string]*types.Package{"unsafe": types.Unsafe},
		used: map[types.Object]bool{}, explored: map[types.Object]bool{}}
	users, wanted := u.users(all)
	for _, p := range all {
		if p.Module != nil {
			u.moduleOf[p.ImportPath] = p.Module.Path
		}
	}
	all = slices.DeleteFunc(all, func(p *listed) bool { return !wanted[p.ImportPath] })
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := checker{fset: token.NewFileSet(), sizes: types.SizesFor("gc", target(o.Env)), known: u.packages}
	next := c.parse(ctx, all)
	interfaces := map[*types.Named]bool{}
	for _, p := range all {
		parsed := next()
		if err := errors.Join(parsed.err, ctx.Err()); err != nil {
			return nil, err
		}
		info, err := c.check(p, parsed.files, users[p.ImportPath])
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", p.ImportPath, err)
		}
		if info != nil {
			u.user(info, parsed.files)
			knownInterfaces(info, interfaces)
		}
	}
	for _, k := range l.keep {
		if err := u.keep(k); err != nil {
			return nil, err
		}
	}
	u.satisfyAll(interfaces)
	return u, nil
}

// target is the processor that is compiled for.
func target(env []string) string {
	arch := runtime.GOARCH
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, "GOARCH="); ok && value != "" {
			arch = value
		}
	}
	return arch
}

// users are the packages whose insides have to be looked at: those that import a package that is
// left out, and those that import them, since they may use what those hand on. Wanted are they and
// all that they are made of.
func (u *uses) users(all []*listed) (users, wanted map[string]bool) {
	packages := map[string]*listed{}
	for _, p := range all {
		packages[p.ImportPath] = p
	}
	direct, seen := map[string]bool{}, map[string]bool{}
	var walk func(p *listed)
	walk = func(p *listed) {
		if p == nil || seen[p.ImportPath] || p.of(u.list.Modules) {
			return
		}
		seen[p.ImportPath] = true
		for _, path := range p.Imports {
			if i := packages[path]; i != nil && i.of(u.list.Modules) {
				direct[p.ImportPath] = true
				u.touched = append(u.touched, path)
			}
			walk(packages[path])
		}
	}
	walk(all[len(all)-1]) // the program
	users, wanted = map[string]bool{}, map[string]bool{}
	var want func(path string)
	want = func(path string) {
		if p := packages[path]; p != nil && path != "unsafe" && !wanted[path] {
			wanted[path] = true
			for _, i := range p.Imports {
				want(i)
			}
		}
	}
	for path := range seen {
		needed := direct[path]
		for _, i := range packages[path].Imports {
			needed = needed || packages[path].Module != nil && direct[i]
		}
		if needed {
			users[path] = true
			want(path)
		}
	}
	return users, wanted
}

// checker finds out the types of packages.
type checker struct {
	fset  *token.FileSet
	sizes types.Sizes
	known map[string]*types.Package
}

// syntax is a package's files.
type syntax struct {
	files []*ast.File
	err   error
}

// parse reads packages beside their being checked, in the same order and a few ahead.
func (c *checker) parse(ctx context.Context, all []*listed) (next func() syntax) {
	ahead := make(chan chan syntax, 4*runtime.GOMAXPROCS(0))
	go func() {
		for _, p := range all {
			read := make(chan syntax, 1)
			select {
			case ahead <- read:
				go func() { read <- c.files(p) }()
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() syntax { return <-<-ahead }
}

func (c *checker) files(p *listed) (s syntax) {
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(c.fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			return syntax{err: err}
		}
		s.files = append(s.files, f)
	}
	return s
}

// check finds out the types of p and, with all, what its functions use.
func (c *checker) check(p *listed, files []*ast.File, all bool) (*types.Info, error) {
	config := types.Config{IgnoreFuncBodies: !all, Sizes: c.sizes, Importer: importer(func(path string) (*types.Package, error) {
		if mapped, ok := p.ImportMap[path]; ok {
			path = mapped
		}
		if known := c.known[path]; known != nil {
			return known, nil
		}
		return nil, fmt.Errorf("go list did not list %s", path)
	})}
	if p.Module != nil && p.Module.GoVersion != "" {
		config.GoVersion = "go" + p.Module.GoVersion
	}
	var info *types.Info
	if all {
		info = &types.Info{
			Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{},
			Implicits: map[ast.Node]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{},
		}
	}
	checked, err := config.Check(p.ImportPath, c.fset, files, info)
	c.known[p.ImportPath] = checked
	return info, err
}

type importer func(path string) (*types.Package, error)

func (f importer) Import(path string) (*types.Package, error) { return f(path) }
