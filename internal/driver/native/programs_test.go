package native

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What was changed since it was placed is not started: a byte more in a program, another
// program under its name, a file in a folder of programs, one that nobody placed.
func TestChangedProgramsAreNotStarted(t *testing.T) {
	lay := func(t *testing.T) paths {
		p := paths(t.TempDir())
		for _, f := range []string{"bin/registry", "bin/kubernetes", "bin/cni/ptp", "llvm/bin/clang", "unplaced"} {
			at := p.join("dist", f)
			if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, []byte(f), 0o700)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink("kubernetes", p.join("dist/bin/kubelet")); err != nil {
			t.Fatal(err)
		}
		if err := (&programs{paths: p}).check(); err != nil {
			t.Fatalf("of an environment that noted nothing: %v", err)
		}
		for _, names := range [][]string{{"bin/registry"}, {"bin/kubernetes", "bin/kubelet"}, {"bin/cni/ptp"}, {"llvm"}} {
			if err := (&Driver{paths: p}).Installed(names...); err != nil {
				t.Fatal(err)
			}
		}
		return p
	}
	add := func(at string) error {
		f, err := os.OpenFile(at, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("x")
		return errors.Join(err, f.Close())
	}
	for name, c := range map[string]struct {
		spoil func(p paths) error
		says  string
	}{
		"registry":      {func(p paths) error { return add(p.join("dist/bin/registry")) }, "bin/registry is not what"},
		"behind a link": {func(p paths) error { return add(p.join("dist/bin/kubernetes")) }, "bin/kubelet is not what"},
		"another link": {func(p paths) error {
			return errors.Join(os.Remove(p.join("dist/bin/kubelet")), os.Symlink("../unplaced", p.join("dist/bin/kubelet")))
		}, "bin/kubelet is not what"},
		"in a folder":    {func(p paths) error { return add(p.join("dist/llvm/bin/clang")) }, "llvm is not what"},
		"one more":       {func(p paths) error { return os.WriteFile(p.join("dist/llvm/bin/ld"), nil, 0o700) }, "llvm is not what"},
		"gone":           {func(p paths) error { return os.Remove(p.join("dist/bin/cni/ptp")) }, "no such file"},
		"with rights":    {func(p paths) error { return os.Chmod(p.join("dist/bin/registry"), 0o4755) }, "bin/registry is not what"},
		"damaged record": {func(p paths) error { return os.WriteFile(p.programs(), []byte("{"), 0o600) }, "places them anew"},
	} {
		t.Run(name, func(t *testing.T) {
			p := lay(t)
			known := &programs{paths: p}
			for range 2 { // the second time by what was seen
				if err := known.check(); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.spoil(p); err != nil {
				t.Fatal(err)
			}
			for who, k := range map[string]*programs{"the supervisor that runs": known, "a new one": {paths: p}} {
				if err := k.check(); err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s: %v", who, err)
				}
			}
			r := &registry{paths: p, programs: known}
			if err := os.MkdirAll(p.join("log"), 0o700); err != nil {
				t.Fatal(err)
			}
			if name == "registry" {
				if err := r.once(t.Context()); err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("the registry was started: %v", err)
				}
			}
			// Who asks for a start is told so at once, and nothing is thrown away for it.
			d := &Driver{paths: p}
			for verb, do := range map[string]func() error{
				"node start":   func() error { return d.StartNode(t.Context(), "server1") },
				"etcd replace": func() error { return d.ReplaceEtcdMember(t.Context(), "server1") },
			} {
				if err := do(); err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s: %v", verb, err)
				}
			}
			if _, _, _, err := (&machine{paths: p, programs: known}).spawn(); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the node was started: %v", err)
			}
		})
	}
	p := lay(t)
	if err := (&programs{paths: p}).check("unplaced"); err == nil || !strings.Contains(err.Error(), "was not placed") {
		t.Errorf("unplaced: %v", err)
	}
	// The same bytes with another link to them, as from a second environment: hashed, and fine.
	if err := os.Link(p.join("dist/bin/registry"), p.join("dist/again")); err != nil {
		t.Fatal(err)
	}
	if err := (&programs{paths: p}).check(); err != nil {
		t.Error(err)
	}
}
