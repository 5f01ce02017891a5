package absent

import (
	"fmt"
	"go/ast"
	"go/types"
	"maps"
	"slices"
	"strings"
)

// uses collects which declarations of the modules that are left out the program needs.
type uses struct {
	list     List
	moduleOf map[string]string         // by package
	packages map[string]*types.Package // all that were looked at
	touched  []string                  // packages that are left out and imported by others
	used     map[types.Object]bool
	explored map[types.Object]bool
}

// mine reports whether p is left out.
func (u *uses) mine(p *types.Package) bool {
	return p != nil && u.list.Modules[u.moduleOf[p.Path()]]
}

// path marks the embedded fields that a selection goes through.
func (u *uses) path(s *types.Selection) {
	t := s.Recv()
	for _, i := range s.Index()[:len(s.Index())-1] {
		if p, ok := t.Underlying().(*types.Pointer); ok {
			t = p.Elem()
		}
		st, ok := t.Underlying().(*types.Struct)
		if !ok {
			return
		}
		u.use(st.Field(i))
		t = st.Field(i).Type()
	}
	u.typ(s.Recv())
}

func (u *uses) use(o types.Object) {
	if o == nil || o.Pkg() == nil {
		return
	}
	if f, ok := o.(*types.Func); ok {
		o = f.Origin()
	}
	if v, ok := o.(*types.Var); ok {
		o = v.Origin()
	}
	if u.used[o] {
		return
	}
	if !u.mine(o.Pkg()) {
		return
	}
	u.used[o] = true
	u.typ(o.Type())
	if f, ok := o.(*types.Func); ok {
		if r := f.Signature().Recv(); r != nil {
			u.typ(r.Type())
		}
	}
}

func (u *uses) typ(t types.Type) {
	switch t := t.(type) {
	case *types.Alias:
		if u.mine(t.Obj().Pkg()) {
			u.used[t.Obj()] = true
		}
		u.typ(t.Rhs())
	case *types.Named:
		for a := range t.TypeArgs().Types() {
			u.typ(a)
		}
		t = t.Origin()
		if !u.mine(t.Obj().Pkg()) || u.explored[t.Obj()] {
			return
		}
		u.used[t.Obj()] = true
		u.explored[t.Obj()] = true
		u.constraints(t.TypeParams())
		switch under := t.Underlying().(type) {
		case *types.Struct: // its fields, as they are used
		case *types.Interface: // its methods likewise
			if !under.IsMethodSet() {
				u.typ(under)
			}
		default:
			u.typ(under)
		}
		// what makes it an error, a reader and so on
		ms := types.NewMethodSet(types.NewPointer(t))
		if _, ok := t.Underlying().(*types.Interface); ok {
			ms = types.NewMethodSet(t)
		}
		for i := range ms.Len() {
			switch n := ms.At(i).Obj().Name(); n {
			case "Error", "Read", "Write", "Close", "ReadAt", "Seek", "Unwrap", "WriteTo", "ReadFrom", "RoundTrip", "Is", "As":
				u.use(ms.At(i).Obj())
				u.path(ms.At(i))
			}
		}
	case *types.Pointer:
		u.typ(t.Elem())
	case *types.Slice:
		u.typ(t.Elem())
	case *types.Array:
		u.typ(t.Elem())
	case *types.Chan:
		u.typ(t.Elem())
	case *types.Map:
		u.typ(t.Key())
		u.typ(t.Elem())
	case *types.Signature:
		u.constraints(t.TypeParams())
		for p := range t.Params().Variables() {
			u.typ(p.Type())
		}
		for r := range t.Results().Variables() {
			u.typ(r.Type())
		}
	case *types.Struct:
		for f := range t.Fields() {
			u.typ(f.Type())
		}
	case *types.Interface:
		for m := range t.Methods() {
			u.typ(m.Type())
		}
		for e := range t.EmbeddedTypes() {
			u.typ(e)
		}
	case *types.Union:
		for term := range t.Terms() {
			u.typ(term.Type())
		}
	}
}

// constraints marks those of type parameters.
func (u *uses) constraints(list *types.TypeParamList) {
	for p := range list.TypeParams() {
		u.typ(p.Constraint())
	}
}

// keep marks PACKAGE.NAME, PACKAGE.TYPE.NAME or PACKAGE.TYPE.*.
func (u *uses) keep(k string) error {
	slash := strings.LastIndex(k, "/")
	for path, p := range u.packages { // k is of one of them at most
		rest, ok := strings.CutPrefix(k, path+".")
		if !ok || len(path) <= slash {
			continue
		}
		name, member, _ := strings.Cut(rest, ".")
		o := p.Scope().Lookup(name)
		if o == nil {
			break
		}
		u.use(o)
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
				u.use(m)
				u.path(s)
				found = true
			}
		}
		if f, _, _ := types.LookupFieldOrMethod(o.Type(), true, p, member); f != nil {
			u.use(f)
			found = true
		}
		if found {
			return nil
		}
	}
	return fmt.Errorf("keep or func %s: there is no such thing", k)
}

// user marks what one package uses.
func (u *uses) user(info *types.Info, files []*ast.File) {
	for _, o := range info.Uses {
		u.use(o)
	}
	for _, o := range info.Implicits {
		if o != nil {
			u.typ(o.Type())
		}
	}
	for _, s := range info.Selections {
		u.use(s.Obj())
		u.path(s)
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if l, ok := n.(*ast.CompositeLit); ok {
				u.literal(info, l)
			}
			return true
		})
	}
}

// literal marks the fields of a struct that is written without their names.
func (u *uses) literal(info *types.Info, l *ast.CompositeLit) {
	t := info.TypeOf(l)
	if t == nil || len(l.Elts) == 0 {
		return
	}
	st, ok := t.Underlying().(*types.Struct)
	if _, named := l.Elts[0].(*ast.KeyValueExpr); ok && !named {
		for f := range st.Fields() {
			u.use(f)
		}
	}
}

// knownInterfaces adds the interfaces that a package may assign to.
func knownInterfaces(info *types.Info, all map[*types.Named]bool) {
	for _, tv := range info.Types {
		addInterface(all, tv.Type)
	}
	for _, o := range info.Uses {
		if f, ok := o.(*types.Func); ok {
			for p := range f.Signature().Params().Variables() {
				addInterface(all, p.Type())
			}
		}
	}
}

func addInterface(all map[*types.Named]bool, t types.Type) {
	switch x := types.Unalias(t).(type) {
	case *types.Slice:
		addInterface(all, x.Elem())
	case *types.Named:
		i, ok := x.Underlying().(*types.Interface)
		if ok && i.NumMethods() > 0 && i.IsMethodSet() && x.TypeArgs().Len() == 0 && x.TypeParams().Len() == 0 {
			all[x] = true
		}
	}
}

// satisfyAll keeps what is needed to assign what is kept. That may reveal types, which have
// interfaces to satisfy.
func (u *uses) satisfyAll(interfaces map[*types.Named]bool) {
	for n := -1; n != len(u.used); {
		n = len(u.used)
		for _, o := range slices.Collect(maps.Keys(u.used)) {
			if tn, ok := o.(*types.TypeName); ok && !tn.IsAlias() {
				u.satisfy(tn.Type(), interfaces)
			}
		}
	}
}

// satisfy keeps what makes t one of the interfaces that its users know.
func (u *uses) satisfy(t types.Type, interfaces map[*types.Named]bool) {
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
		mine := u.mine(in.Obj().Pkg())
		for k := range i.NumMethods() {
			m := i.Method(k)
			if mine && !u.used[m] {
				continue
			}
			if s := ms.Lookup(m.Pkg(), m.Name()); s != nil {
				u.use(s.Obj())
				u.path(s)
			}
		}
	}
}
