package main

import (
	"fmt"
	"go/ast"
	"go/types"
	"os"
	"strings"

	"golang.org/x/tools/go/packages"
)

// gen collects which declarations of the modules that are left out the program needs.
type gen struct {
	bodies   map[string]string
	mods     map[string]bool
	modOf    map[string]string
	pkgs     map[string]*types.Package
	touched  []string
	used     map[types.Object]bool
	explored map[types.Object]bool
}

func (g *gen) mine(p *types.Package) bool { return p != nil && g.mods[g.modOf[p.Path()]] }

// path marks the embedded fields that a selection goes through.
func (g *gen) path(s *types.Selection) {
	t := s.Recv()
	for _, i := range s.Index()[:len(s.Index())-1] {
		if p, ok := t.Underlying().(*types.Pointer); ok {
			t = p.Elem()
		}
		st, ok := t.Underlying().(*types.Struct)
		if !ok {
			return
		}
		g.use(st.Field(i))
		t = st.Field(i).Type()
	}
	g.typ(s.Recv())
}

func (g *gen) use(o types.Object) {
	if o == nil || o.Pkg() == nil {
		return
	}
	if f, ok := o.(*types.Func); ok {
		o = f.Origin()
	}
	if v, ok := o.(*types.Var); ok {
		o = v.Origin()
	}
	if g.used[o] {
		return
	}
	if !g.mine(o.Pkg()) {
		return
	}
	g.used[o] = true
	g.typ(o.Type())
	if f, ok := o.(*types.Func); ok {
		if r := f.Signature().Recv(); r != nil {
			g.typ(r.Type())
		}
	}
}

func (g *gen) typ(t types.Type) {
	switch t := t.(type) {
	case *types.Alias:
		if g.mine(t.Obj().Pkg()) {
			if !g.used[t.Obj()] {
				g.used[t.Obj()] = true
			}
		}
		g.typ(t.Rhs())
	case *types.Named:
		for i := range t.TypeArgs().Len() {
			g.typ(t.TypeArgs().At(i))
		}
		t = t.Origin()
		if !g.mine(t.Obj().Pkg()) || g.explored[t.Obj()] {
			return
		}
		g.used[t.Obj()] = true
		g.explored[t.Obj()] = true
		switch t.Underlying().(type) {
		case *types.Struct, *types.Interface:
		default:
			g.typ(t.Underlying())
		}
		// what makes it an error, a reader and so on
		ms := types.NewMethodSet(types.NewPointer(t))
		if _, ok := t.Underlying().(*types.Interface); ok {
			ms = types.NewMethodSet(t)
		}
		for i := range ms.Len() {
			switch n := ms.At(i).Obj().Name(); n {
			case "Error", "Read", "Write", "Close", "ReadAt", "Seek", "Unwrap", "WriteTo", "ReadFrom", "RoundTrip", "Is", "As":
				g.use(ms.At(i).Obj())
				g.path(ms.At(i))
			}
		}
	case *types.Pointer:
		g.typ(t.Elem())
	case *types.Slice:
		g.typ(t.Elem())
	case *types.Array:
		g.typ(t.Elem())
	case *types.Chan:
		g.typ(t.Elem())
	case *types.Map:
		g.typ(t.Key())
		g.typ(t.Elem())
	case *types.Signature:
		for i := range t.Params().Len() {
			g.typ(t.Params().At(i).Type())
		}
		for i := range t.Results().Len() {
			g.typ(t.Results().At(i).Type())
		}
	case *types.Struct:
		for i := range t.NumFields() {
			g.typ(t.Field(i).Type())
		}
	case *types.Interface:
		for i := range t.NumMethods() {
			g.typ(t.Method(i).Type())
		}
	}
}

// keep marks PACKAGE.NAME, PACKAGE.TYPE.NAME or PACKAGE.TYPE.*.
func (g *gen) keep(k string) error {
	slash := strings.LastIndex(k, "/")
	for path, p := range g.pkgs {
		rest, ok := strings.CutPrefix(k, path+".")
		if !ok || len(path) <= slash {
			continue
		}
		name, member, _ := strings.Cut(rest, ".")
		o := p.Scope().Lookup(name)
		if o == nil {
			break
		}
		g.use(o)
		if member == "" {
			return nil
		}
		all := types.NewMethodSet(types.NewPointer(o.Type()))
		if types.IsInterface(o.Type()) {
			all = types.NewMethodSet(o.Type())
		}
		found := false
		for s := range all.Methods() {
			if m := s.Obj(); m.Name() == member || member == "*" && m.Exported() {
				g.use(m)
				g.path(s)
				found = true
			}
		}
		if f, _, _ := types.LookupFieldOrMethod(o.Type(), true, p, member); f != nil {
			g.use(f)
			found = true
		}
		if found {
			return nil
		}
	}
	return fmt.Errorf("keep or func %s: there is no such thing", k)
}

// load reads the program and marks what it uses of the modules that are left out.
func load(dir string, w wish) (*gen, error) {
	g := &gen{mods: w.modules, bodies: w.bodies, modOf: map[string]string{}, pkgs: map[string]*types.Package{}, used: map[types.Object]bool{}, explored: map[types.Object]bool{}}
	users, err := g.users(dir, w.main)
	if err != nil {
		return nil, err
	}
	loaded, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedSyntax | packages.NeedImports | packages.NeedDeps | packages.NeedModule,
		Dir:  dir, Env: environment(),
	}, users...)
	if err != nil {
		return nil, err
	}
	packages.Visit(loaded, nil, func(p *packages.Package) {
		if p.Types != nil {
			g.pkgs[p.PkgPath] = p.Types
		}
		if p.Module != nil {
			g.modOf[p.PkgPath] = p.Module.Path
		}
	})
	interfaces := map[*types.Named]bool{}
	for _, p := range loaded {
		for _, e := range p.Errors {
			return nil, e
		}
		g.uses(p)
		knownInterfaces(p, interfaces)
	}
	for _, k := range w.keep {
		if err := g.keep(k); err != nil {
			return nil, err
		}
	}
	// What is kept may reveal types, which have interfaces to satisfy.
	for n := -1; n != len(g.used); {
		n = len(g.used)
		var now []types.Object
		for o := range g.used {
			now = append(now, o)
		}
		for _, o := range now {
			if tn, ok := o.(*types.TypeName); ok && !tn.IsAlias() {
				g.satisfy(tn.Type(), interfaces)
			}
		}
	}
	return g, nil
}

func environment() []string { return append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod") }

// users are the packages whose types have to be looked at: those that import a package
// that is left out, and those that import them, since they may use what those hand on.
func (g *gen) users(dir, main string) ([]string, error) {
	list, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedImports | packages.NeedDeps | packages.NeedModule,
		Dir:  dir, Env: environment(),
	}, main)
	if err != nil {
		return nil, err
	}
	direct := map[string]bool{}
	seen := map[string]*packages.Package{}
	var walk func(p *packages.Package)
	walk = func(p *packages.Package) {
		if seen[p.PkgPath] != nil || p.Module != nil && g.mods[p.Module.Path] {
			return
		}
		seen[p.PkgPath] = p
		for _, i := range p.Imports {
			if i.Module != nil && g.mods[i.Module.Path] {
				direct[p.PkgPath] = true
				g.touched = append(g.touched, i.PkgPath)
			}
			walk(i)
		}
	}
	for _, p := range list {
		walk(p)
	}
	var users []string
	for path, p := range seen {
		needed := direct[path]
		for _, i := range p.Imports {
			needed = needed || p.Module != nil && direct[i.PkgPath]
		}
		if needed {
			users = append(users, path)
		}
	}
	return users, nil
}

// uses marks what one package uses.
func (g *gen) uses(p *packages.Package) {
	for _, o := range p.TypesInfo.Uses {
		g.use(o)
	}
	for _, o := range p.TypesInfo.Implicits {
		if o != nil {
			g.typ(o.Type())
		}
	}
	for _, s := range p.TypesInfo.Selections {
		g.use(s.Obj())
		g.path(s)
	}
	for _, f := range p.Syntax {
		ast.Inspect(f, func(n ast.Node) bool {
			l, ok := n.(*ast.CompositeLit)
			if !ok || len(l.Elts) == 0 {
				return true
			}
			t := p.TypesInfo.TypeOf(l)
			if t == nil {
				return true
			}
			st, ok := t.Underlying().(*types.Struct)
			if _, named := l.Elts[0].(*ast.KeyValueExpr); ok && !named {
				for i := range st.NumFields() {
					g.use(st.Field(i))
				}
			}
			return true
		})
	}
}

// knownInterfaces adds the interfaces that a package may assign to.
func knownInterfaces(p *packages.Package, all map[*types.Named]bool) {
	for _, tv := range p.TypesInfo.Types {
		addInterface(all, tv.Type)
	}
	for _, o := range p.TypesInfo.Uses {
		if f, ok := o.(*types.Func); ok {
			for i := range f.Signature().Params().Len() {
				addInterface(all, f.Signature().Params().At(i).Type())
			}
		}
	}
}
func addInterface(all map[*types.Named]bool, t types.Type) {
	switch x := types.Unalias(t).(type) {
	case *types.Slice:
		addInterface(all, x.Elem())
	case *types.Named:
		if i, ok := x.Underlying().(*types.Interface); ok && i.NumMethods() > 0 && i.IsMethodSet() && x.TypeArgs().Len() == 0 && x.TypeParams().Len() == 0 {
			all[x] = true
		}
	}
}

// satisfy keeps what makes t one of the interfaces that its users know.
func (g *gen) satisfy(t types.Type, interfaces map[*types.Named]bool) {
	if n, ok := t.(*types.Named); ok && n.TypeParams().Len() > 0 {
		return
	}
	p := t
	if _, ok := t.Underlying().(*types.Interface); !ok {
		p = types.NewPointer(t)
	}
	ms := types.NewMethodSet(p)
	for in := range interfaces {
		i := in.Underlying().(*types.Interface)
		if !types.Implements(p, i) {
			continue
		}
		mine := g.mine(in.Obj().Pkg())
		for k := range i.NumMethods() {
			m := i.Method(k)
			if mine && !g.used[m] {
				continue
			}
			if s := ms.Lookup(m.Pkg(), m.Name()); s != nil {
				g.use(s.Obj())
				g.path(s)
			}
		}
	}
}
