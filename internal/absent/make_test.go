package absent

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// program is a folder with a program of another module that imports a cloud's, which imports one
// more. Nothing is imported of the standard library, so all of it is quickly read.
func program(t *testing.T, cloud, main string, more map[string]string) string {
	t.Helper()
	files := map[string]string{
		"go.mod": `module example.org/top

go 1.24

require (
	example.org/prog v0.0.0
	example.org/cloud v0.0.0
	example.org/deep v0.0.0
)

` +
			"replace (\n\texample.org/prog => ./prog\n\texample.org/cloud => ./cloud\n\texample.org/deep => ./deep\n)\n",
		"list":           "module example.org/cloud\n",
		"prog/go.mod":    "module example.org/prog\n\ngo 1.24\n\nrequire example.org/cloud v0.0.0\n",
		"prog/main.go":   "package main\n\nimport \"example.org/cloud\"\n\n" + main + "\n",
		"cloud/go.mod":   "module example.org/cloud\n\ngo 1.24\n\nrequire example.org/deep v0.0.0\n",
		"cloud/cloud.go": "package cloud\n\n" + cloud + "\n",
		"deep/go.mod":    "module example.org/deep\n\ngo 1.24\n",
		"deep/deep.go":   "package deep\n\ntype D struct{ X int }\n\nfunc F() {}\n",
	}
	maps.Copy(files, more)
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// offline is an environment in which nothing can be fetched.
func offline() []string {
	return append(os.Environ(), "GOPROXY=off", "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
}

func options(dir string) Options {
	return Options{Dir: dir, File: "list", Package: "example.org/prog", Env: offline()}
}

// run compiles the program with its stand-ins, and returns what it says.
func run(t *testing.T, dir string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "prog")
	cmd := exec.Command("go", "build", "-mod=readonly", "-o", file, "example.org/prog")
	cmd.Dir, cmd.Env = dir, offline()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("with stand-ins: %v\n%s", err, out)
	}
	out, _ := exec.Command(file).CombinedOutput() // it may panic
	return string(out)
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		files[filepath.ToSlash(rel)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestMake(t *testing.T) {
	for name, test := range map[string]struct {
		cloud, main, list string
		more              map[string]string
		has, hasNot       []string // lines of the stand-in
		says              string   // by the program
	}{
		"a function that fails": {
			cloud: `import "example.org/deep"

func Open(name string, n ...int) (int, error) { deep.F(); return 0, nil }

func Other() {}`,
			main:   "func main() {\n\t_, err := cloud.Open(\"x\", 1, 2)\n\tprint(err.Error())\n}",
			has:    []string{"func Open(string, ...int) (r0 int, err error) { err = absentError(\"Open\"); return }"},
			hasNot: []string{"Other", "deep"},
			says:   "example.org/cloud.Open: left out of this build",
		},
		"a function that panics": {
			cloud: "func Count() int { return 1 }\n\nfunc Go() {}",
			main: `func main() {
	defer func() { print(recover().(error).Error()) }()
	cloud.Go()
	print(cloud.Count())
}`,
			has:  []string{"func Count() (r0 int) { panic(absentError(\"Count\")) }", "func Go() { panic(absentError(\"Go\")) }"},
			says: "example.org/cloud.Go: left out of this build",
		},
		"a body": {
			cloud: "type ID struct{ low uint64 }\n\nfunc (i ID) Valid() bool { return i.low != 0 }",
			main:  "func main() { print(cloud.ID{}.Valid()) }",
			list:  "func example.org/cloud.ID.Valid return false",
			has:   []string{"func (ID) Valid() (r0 bool) { return false }"}, hasNot: []string{"low"},
			says: "false",
		},
		"kept": {
			cloud: "type R struct{}\n\nfunc (*R) Reset() {}\n\nfunc (*R) Stop() {}\n\nfunc (*R) own() {}\n\nconst Max = 1",
			main:  "func main() {\n\tvar r cloud.R\n\t_ = any(&r).(interface{ Reset() })\n\tprint(\"fine\")\n}",
			list:  "keep example.org/cloud.R.*\nkeep example.org/cloud.Max",
			has:   []string{"func (*R) Reset() ", "func (*R) Stop() ", "const Max = 1"}, hasNot: []string{"own"},
			says: "fine",
		},
		"constants, variables and errors": {
			cloud: `type Size int64

const (
	Small Size = 1 << iota
	Large
	Plain = "p"
)

type failed struct{}

func (failed) Error() string { return "" }

var ErrGone error = failed{}

var Default = map[string]Size{"a": 1}`,
			main: "func main() { print(cloud.Large, cloud.Plain, len(cloud.Default), cloud.ErrGone.Error()) }",
			has: []string{"const Large Size = 2", "const Plain = \"p\"", "var Default map[string]Size",
				"var ErrGone error = absentError(\"ErrGone\")"},
			hasNot: []string{"Small"},
			says:   "2p0example.org/cloud.ErrGone: left out of this build",
		},
		"fields, by name and by place, embedded and tagged": {
			cloud: "type Base struct{ Region, Zone string }\n\n" +
				"type Config struct {\n\tBase\n\tName string `json:\"name\"`\n\tUnused int\n}\n\n" +
				"type Pair struct{ A, B int }",
			main: `func main() {
	c := cloud.Config{Name: "n"}
	c.Region = "r"
	print(c.Name, c.Region, cloud.Pair{1, 2}.B)
}`,
			has: []string{`Base
`, "Name string `json:\"name\"`", "Region string", "B int"}, hasNot: []string{"Unused", "Zone"},
			says: "nr2",
		},
		"what makes it an interface's": {
			cloud: `type Store struct{}

func (*Store) Get(k string) string { return k }

func (*Store) Put(k string) {}

func (*Store) Error() string { return "" }`,
			main: "type getter interface{ Get(string) string }\n\nfunc use(g getter) { print(g != nil) }\n\n" +
				"func main() { use(&cloud.Store{}) }",
			has: []string{"func (*Store) Get(string) (r0 string)", "func (*Store) Error() (r0 string)"}, hasNot: []string{"Put"},
			says: "true",
		},
		"generic": {
			cloud: `type Number interface{ ~int | ~float64 }

type List[T any] struct{ Items []T }

func (l *List[T]) Len() int { return len(l.Items) }

func Sum[T Number](of ...T) (T, error) { var z T; return z, nil }`,
			main: `func main() {
	l := cloud.List[int]{Items: []int{1}}
	_, err := cloud.Sum[int](1)
	print(len(l.Items), err.Error())
	if false {
		print(l.Len())
	}
}`,
			has:  []string{"type List[T any] struct", "func (*List[T]) Len() (r0 int)", "type Number interface{ ~int | ~float64 }"},
			says: "1example.org/cloud.Sum: left out of this build",
		},
		"an alias and another's type": {
			cloud: "import \"example.org/deep\"\n\ntype D = deep.D\n\ntype E deep.D",
			main:  "func main() { print(cloud.D{X: 3}.X, cloud.E{X: 4}.X) }",
			has:   []string{"type D = deep.D", "type E deep.D", "import (\n\t\"example.org/deep\"\n)"},
			says:  "34",
		},
		"handed on by another package": {
			cloud: "type Client struct{}\n\nfunc (*Client) Ask() int { return 1 }\n\nfunc (*Client) Drop() {}",
			main: `import "example.org/prog/between"

var _ cloud.Client

func main() {
	if c := between.New(); c != nil {
		print(c.Ask())
	}
	print("none")
}`,
			more: map[string]string{"prog/between/between.go": `package between

import "example.org/cloud"

func New() *cloud.Client { return nil }
`},
			has: []string{"func (*Client) Ask() (r0 int)"}, hasNot: []string{"Drop"},
			says: "none",
		},
		"imported for nothing": {
			cloud: "func init() { panic(\"called\") }",
			main:  "import _ \"example.org/cloud\"\n\nvar _ = cloud.Nothing\n\nfunc main() { print(\"quiet\") }",
			more:  map[string]string{"cloud/more.go": "package cloud\n\nvar Nothing int\n"},
			has:   []string{"var Nothing int"}, hasNot: []string{"init"},
			says: "quiet",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{"list": "module example.org/cloud\n" + test.list + "\n"}
			maps.Copy(files, test.more)
			dir := program(t, test.cloud, test.main, files)
			if unused, err := Make(t.Context(), options(dir)); err != nil || len(unused) > 0 {
				t.Fatalf("%v, unused %q", err, unused)
			}
			got := tree(t, filepath.Join(dir, Folder))["example.org-cloud/absent.go"]
			flat := strings.Join(strings.Fields(got), " ")
			for _, want := range test.has {
				if !strings.Contains(flat, strings.TrimSpace(strings.Join(strings.Fields(want), " "))) {
					t.Errorf("there is no %q", want)
				}
			}
			for _, not := range test.hasNot {
				if strings.Contains(got, not) {
					t.Errorf("there is %q", not)
				}
			}
			if says := run(t, dir); !strings.HasPrefix(says, test.says) {
				t.Errorf("the program says %q, want %q", says, test.says)
			}
			if t.Failed() {
				t.Log(got)
			}
		})
	}
}

// Two modules, several packages, and one module of which nothing is imported.
func TestModules(t *testing.T) {
	const main = "import \"example.org/cloud/v2/sub\"\n\nfunc main() {\n\tsub.F()\n\tcloud.F()\n}"
	more := map[string]string{
		"go.mod": `module example.org/top

go 1.24

require (
	example.org/prog v0.0.0
	example.org/cloud v0.0.0
	example.org/cloud/v2 v2.0.0
)

` +
			"replace (\n\texample.org/prog => ./prog\n\texample.org/cloud => ./cloud\n\texample.org/cloud/v2 => ./cloud2\n)\n",
		"list":              "module example.org/cloud\nmodule example.org/cloud/v2\nmodule example.org/deep\n",
		"prog/go.mod":       "module example.org/prog\n\ngo 1.24\n",
		"cloud/go.mod":      "module example.org/cloud\n\ngo 1.24\n",
		"cloud2/go.mod":     "module example.org/cloud/v2\n\ngo 1.24\n",
		"cloud2/sub/sub.go": "package sub\n\nfunc F() {}\n",
	}
	var trees []map[string]string
	for range 3 {
		dir := program(t, "func F() {}", main, more)
		unused, err := Make(t.Context(), options(dir))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(unused, []string{"example.org/deep"}) {
			t.Errorf("unused: %q", unused)
		}
		all := tree(t, filepath.Join(dir, Folder))
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		all["main go.mod"] = string(mod)
		trees = append(trees, all)
	}
	want := []string{
		"example.org-cloud-v2/go.mod", "example.org-cloud-v2/sub/absent.go", "example.org-cloud/absent.go", "example.org-cloud/go.mod",
		"main go.mod",
	}
	if got := slices.Sorted(maps.Keys(trees[0])); !slices.Equal(got, want) {
		t.Errorf("files: %q", got)
	}
	if mod := trees[0]["main go.mod"]; !strings.Contains(mod, `example.org/cloud/v2 => ./absent/example.org-cloud-v2
`) || !strings.Contains(mod, `example.org/prog => ./prog
`) {
		t.Errorf("go.mod:\n%s", mod)
	}
	for _, other := range trees[1:] {
		if !maps.Equal(trees[0], other) {
			t.Error("the same input, other bytes")
		}
	}
}

func TestTagsAndTarget(t *testing.T) {
	dir := program(t, "", "func main() { print(cloud.Tagged) }", map[string]string{
		"cloud/tag.go":   "//go:build some\n\npackage cloud\n\nconst Tagged = uint64(size)\n",
		"cloud/arm64.go": "//go:build arm64\n\npackage cloud\n\nconst size = 64\n",
		"cloud/amd64.go": "//go:build amd64\n\npackage cloud\n\nconst size = 46\n",
	})
	o := options(dir)
	o.Tags, o.Env = []string{"other", "some"}, append(o.Env, "GOARCH=arm64")
	if _, err := Make(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if got := tree(t, filepath.Join(dir, Folder))["example.org-cloud/absent.go"]; !strings.Contains(got, "const Tagged uint64 = 64") {
		t.Error(got)
	}
}

func TestMakeRefuses(t *testing.T) {
	const cloud, main = "func F() {}", "func main() { cloud.F() }"
	for name, test := range map[string]struct {
		more map[string]string
		says []string
	}{
		"a list that is none": {map[string]string{"list": "modul x\n"}, []string{"list: line 1", `"modul" is none of`}},
		"what is not there to keep": {
			map[string]string{"list": `module example.org/cloud
keep example.org/cloud.Gone
`}, []string{"example.org/cloud.Gone", "there is no such thing"},
		},
		"a method that is not there": {
			map[string]string{"list": `module example.org/cloud
keep example.org/cloud.F.Gone
`}, []string{"example.org/cloud.F.Gone"},
		},
		"a module that cannot be had": {
			map[string]string{
				"cloud/cloud.go": "package cloud\n\nimport \"example.org/far\"\n\nfunc F() { far.F() }\n",
				"go.mod": `module example.org/top

go 1.24

require (
	example.org/prog v0.0.0
	example.org/cloud v0.0.0
	example.org/deep v0.0.0
	example.org/far v1.0.0
)

` +
					"replace (\n\texample.org/prog => ./prog\n\texample.org/cloud => ./cloud\n\texample.org/deep => ./deep\n)\n",
				"go.sum": `example.org/far v1.0.0 h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=
example.org/far v1.0.0/go.mod h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=
`,
			}, []string{"go list", "example.org/far", "module lookup disabled by GOPROXY=off"},
		},
		"go.mod that lacks one": {
			map[string]string{"cloud/cloud.go": `package cloud

import "example.org/near"

func F() { near.F() }
`}, []string{"example.org/near"},
		},
		"a program that does not compile": {map[string]string{"cloud/cloud.go": `package cloud

func F() Gone { return 1 }
`}, []string{"read example.org/cloud", "undefined: Gone"}},
		"stand-ins in the tree": {map[string]string{"absent/x": ""}, []string{"absent", "must not be there"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Make(t.Context(), options(program(t, cloud, main, test.more)))
			if err == nil {
				t.Fatal("was taken")
			}
			for _, says := range test.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("%v: does not say %q", err, says)
				}
			}
		})
	}
	var failed *CommandError
	o := options(program(t, cloud, main, nil))
	o.Package = "example.org/none"
	if _, err := Make(t.Context(), o); !errors.As(err, &failed) || !bytes.Contains([]byte(failed.Stderr), []byte("example.org/none")) {
		t.Errorf("a package that is not there: %v", err)
	}
}
