package build

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/orrery-dev/orrery/internal/build/buildtest"
	"github.com/orrery-dev/orrery/internal/catalog"
)

// workspace is a module with a tool that needs nothing foreign, and a program that does.
func workspace(t *testing.T) string {
	return buildtest.Module(t, map[string]string{
		"go.mod":                 "module example.org/all\n\ngo 1.24\n\nrequire example.org/dep v1.0.0\n",
		"go.sum":                 "example.org/dep v1.0.0 h1:x\n",
		"tool/main.go":           "package main\n\nimport \"example.org/all/shared\"\n\nfunc main() { shared.F() }\n",
		"tool/main_test.go":      "package main\n",
		"shared/shared.go":       "package shared\n\nimport _ \"embed\"\n\n//go:embed data\nvar data string\n\nfunc F() {}\n",
		"shared/data":            "data",
		"shared/nested/go.mod":   "module example.org/nested\n",
		"shared/nested/other.go": "package nested\n",
		"other/other.go":         "package other\n",
		"app/main.go":            "package main\n\nimport _ \"example.org/dep\"\n\nfunc main() {}\n",
		"replaced/go.mod":        "module example.org/replaced\n",
		"replaced/r.go":          "package replaced\n",
	})
}

func TestKey(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	key := func(bin catalog.Binary) string {
		t.Helper()
		k, err := b.Key(t.Context(), bin)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	tool := catalog.Binary{Name: "tool", Package: "./tool", Tags: []string{"a"}, LDFlags: "-X x=1"}
	app := catalog.Binary{Name: "app", Package: "./app"}
	foreign := catalog.Binary{Name: "cmd", Package: "example.org/dep/cmd"}

	edit := func(name, text string) func(*testing.T, string, *catalog.Binary) {
		return func(t *testing.T, dir string, _ *catalog.Binary) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	set := func(f func(*catalog.Binary)) func(*testing.T, string, *catalog.Binary) {
		return func(_ *testing.T, _ string, b *catalog.Binary) { f(b) }
	}
	const goMod = "module example.org/all\n\ngo 1.24\n\nrequire example.org/dep v1.0.0\n"
	for name, tc := range map[string]struct {
		bin    catalog.Binary
		change func(t *testing.T, dir string, bin *catalog.Binary)
		same   bool
	}{
		"nothing":                    {tool, set(func(*catalog.Binary) {}), true},
		"version is for people":      {tool, set(func(b *catalog.Binary) { b.Version = "v9" }), true},
		"measurements":               {tool, set(func(b *catalog.Binary) { b.CPUSeconds, b.MemoryMiB = 5, 5 }), true},
		"links":                      {tool, set(func(b *catalog.Binary) { b.Links = []string{"x"} }), true},
		"blanks in ldflags":          {tool, set(func(b *catalog.Binary) { b.LDFlags = " -X\n  x=1 " }), true},
		"tags":                       {tool, set(func(b *catalog.Binary) { b.Tags = []string{"b"} }), false},
		"ldflags":                    {tool, set(func(b *catalog.Binary) { b.LDFlags = "-X x=2" }), false},
		"cgo":                        {tool, set(func(b *catalog.Binary) { b.CGO = true }), false},
		"name":                       {tool, set(func(b *catalog.Binary) { b.Name = "loot" }), false},
		"package":                    {tool, set(func(b *catalog.Binary) { b.Package = "./app" }), false},
		"own file":                   {tool, edit("tool/main.go", "package main\n\nfunc main() {}\n"), false},
		"new file":                   {tool, edit("tool/more.go", "package main\n"), false},
		"imported package":           {tool, edit("shared/shared.go", "package shared\n\nfunc F() {}\n"), false},
		"embedded file":              {tool, edit("shared/data", "other"), false},
		"test file":                  {tool, edit("tool/main_test.go", "package main // changed\n"), true},
		"another package":            {tool, edit("other/other.go", "package other // changed\n"), true},
		"module below":               {tool, edit("shared/nested/other.go", "package nested // changed\n"), true},
		"dependency of others":       {tool, edit("go.mod", goMod+"\nrequire example.org/more v1.0.0\n"), true},
		"go directive":               {tool, edit("go.mod", "module example.org/all\n\ngo 1.25\n"), false},
		"godebug":                    {tool, edit("go.mod", goMod+"\ngodebug default=go1.24\n"), false},
		"own dependency":             {app, edit("go.mod", goMod+"\nrequire example.org/more v1.0.0\n"), false},
		"own checksum":               {app, edit("go.sum", "example.org/dep v1.0.0 h1:y\n"), false},
		"foreign: go.sum":            {foreign, edit("go.sum", "example.org/dep v1.0.0 h1:y\n"), false},
		"foreign: our code":          {foreign, edit("app/main.go", "package main\n\nfunc main() {}\n"), true},
		"local replacement":          {app, edit("go.mod", goMod+"\nreplace example.org/dep => ./replaced\n"), false},
		"in an unused, replaced dir": {app, edit("replaced/r.go", "package replaced // changed\n"), true},
	} {
		t.Run(name, func(t *testing.T) {
			before, after := tc.bin, tc.bin
			before.Dir, after.Dir = workspace(t), workspace(t)
			tc.change(t, after.Dir, &after)
			if same := key(before) == key(after); same != tc.same {
				t.Errorf("keys equal: %v, want %v", same, tc.same)
			}
		})
	}
	t.Run("in a replacement", func(t *testing.T) {
		var keys []string
		for _, text := range []string{"package replaced\n", "package replaced // changed\n"} {
			bin := app
			bin.Dir = workspace(t)
			edit("go.mod", goMod+"\nreplace example.org/dep => ./replaced\n")(t, bin.Dir, nil)
			edit("replaced/r.go", text)(t, bin.Dir, nil)
			keys = append(keys, key(bin))
		}
		if keys[0] == keys[1] {
			t.Error("the replacement's content is not in the key")
		}
	})
	t.Run("Go version", func(t *testing.T) {
		bin := tool
		bin.Dir = workspace(t)
		before := key(bin)
		other := *b.go_
		other.version = "go9.9.9"
		defer func(old *toolchain) { b.go_ = old }(b.go_)
		b.go_ = &other
		if key(bin) == before {
			t.Error("another Go, the same key")
		}
	})
}

// Fields that run into each other would let two different inputs share a key.
func TestHasherSeparates(t *testing.T) {
	sums := map[string]bool{}
	for _, add := range []func(*hasher){
		func(h *hasher) { h.add("a", "b", "c") },
		func(h *hasher) { h.add("a", "bc") },
		func(h *hasher) { h.add("ab", "c") },
		func(h *hasher) { h.add("a"); h.add("b", "c") },
		func(h *hasher) { h.add("a", "b"); h.add("c") },
	} {
		h := newHasher()
		add(h)
		sums[h.sum()] = true
	}
	if len(sums) != 5 {
		t.Errorf("%d different sums, want 5", len(sums))
	}
}

func BenchmarkKey(b *testing.B) {
	dir := b.TempDir()
	builder, _ := newBuilder(b, dir)
	bin := buildtest.Hello(b)
	for b.Loop() {
		if _, err := builder.Key(b.Context(), bin); err != nil {
			b.Fatal(err)
		}
	}
}
