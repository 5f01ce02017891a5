package build

import (
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/absent"
	"github.com/orrery-dev/orrery/internal/build/buildtest"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/disk"
)

// clouded is a program of another module, which asks a cloud that is left out.
func clouded(t *testing.T) catalog.Binary {
	dir := buildtest.Module(t, map[string]string{
		"go.mod": `module example.org/top

go 1.24

require (
	example.org/prog v1.2.3
	example.org/cloud v0.0.0
	example.org/deep v0.0.0
)

` +
			"replace (\n\texample.org/prog => ./prog\n\texample.org/cloud => ./cloud\n\texample.org/deep => ./deep\n)\n",
		"absent.txt":     "module example.org/cloud\nmodule example.org/never\n",
		"prog/go.mod":    "module example.org/prog\n\ngo 1.24\n",
		"prog/main.go":   "package main\n\nimport \"example.org/cloud\"\n\nfunc main() { println(cloud.Ask().Error()) }\n",
		"cloud/go.mod":   "module example.org/cloud\n\ngo 1.24\n",
		"cloud/cloud.go": "package cloud\n\nimport \"example.org/deep\"\n\nfunc Ask() error { return deep.Ask() }\n",
		"deep/go.mod":    "module example.org/deep\n\ngo 1.24\n",
		"deep/deep.go":   "package deep\n\nfunc Ask() error { panic(\"it was linked\") }\n",
	})
	return catalog.Binary{
		Name: "prog", Dir: dir, Package: "example.org/prog", Absent: "absent.txt", Version: "v1.2.3", CPUSeconds: 1, MemoryMiB: 100,
	}
}

// withGenerator is a builder in this repository, which has what makes stand-ins.
func withGenerator(t *testing.T) (*Builder, *buildtest.Recorder) {
	b, events := newBuilder(t, t.TempDir())
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	b.opts.RepoRoot = root
	return b, events
}

func TestStandIns(t *testing.T) {
	bin := clouded(t)
	before := fileNames(t, bin.Dir)
	b, events := withGenerator(t)
	path, err := b.Binary(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, path); got != "example.org/cloud.Ask: left out of this build" {
		t.Errorf("it printed %q", got)
	}
	if said := strings.Join(events.Messages("progress"), "\n"); !strings.Contains(said, "making stand-ins") {
		t.Errorf("progress: %s", said)
	}
	if said := strings.Join(events.Messages("warning"), `
`); !strings.Contains(said, "nothing of example.org/never is used: its line in absent.txt can go") {
		t.Errorf("warnings: %s", said)
	}
	if after := fileNames(t, bin.Dir); after != before {
		t.Errorf("the module's folder was changed: %s", after)
	}
	src, err := b.source(bin)
	if err != nil {
		t.Fatal(err)
	}
	if pinned, owned, err := src.split(newHasher(), newHasher()); err != nil || !pinned || !owned {
		t.Errorf("the lock has pins: %v, and a tree: %v; want both (%v)", pinned, owned, err)
	}
	info, err := b.Program(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range info.Modules {
		if m.Path == "./absent/example.org-cloud" && m.Replaces == "example.org/cloud@v0.0.0" {
			return
		}
	}
	t.Errorf("the program does not name its stand-in: %+v", info.Modules)
}

func fileNames(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		info, infoErr := d.Info()
		names = append(names, path+" "+info.ModTime().String())
		return errors.Join(err, infoErr)
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, "\n")
}

// Whether stand-ins are made or stand in the tree, the program is the same to the byte; so it is
// whatever their comments say.
func TestStandInsDecideNothing(t *testing.T) {
	made := clouded(t)
	b, _ := withGenerator(t)
	path, err := b.Binary(t.Context(), made)
	if err != nil {
		t.Fatal(err)
	}
	kept := clouded(t)
	o := absent.Options{Dir: kept.Dir, File: kept.Absent, Package: kept.Package, Env: os.Environ()}
	if _, err := absent.Make(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	kept.Absent = ""
	edit(t, kept, "absent/example.org-cloud/absent.go", "// Code generated", "// Once generated")
	keptPath, err := b.Binary(t.Context(), kept)
	if err != nil {
		t.Fatal(err)
	}
	if path == keptPath {
		t.Fatal("they have the same key")
	}
	one, err := disk.SHA256(path)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := disk.SHA256(keptPath); err != nil || one != other {
		t.Errorf("%s and %s, %v", one, other, err)
	}
}

// What makes stand-ins runs here, and writes those of the other processor.
func TestStandInsAcross(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the runtime for another processor")
	}
	arch := "arm64"
	if runtime.GOARCH == arch {
		arch = "amd64"
	}
	b, _ := withGenerator(t)
	b.opts.Platform = "linux/" + arch
	bin := clouded(t)
	edit(t, bin, "cloud/cloud.go", "func Ask", "const Size = 1\n\nfunc Ask")
	if err := os.Rename(filepath.Join(bin.Dir, "cloud/cloud.go"), filepath.Join(bin.Dir, "cloud/cloud_"+arch+".go")); err != nil {
		t.Fatal(err)
	}
	edit(t, bin, "prog/main.go", "println(", "println(cloud.Size, ")
	path, err := b.Binary(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if own := map[string]elf.Machine{"amd64": elf.EM_AARCH64, "arm64": elf.EM_X86_64}[runtime.GOARCH]; f.Machine != own {
		t.Errorf("the program is for %v", f.Machine)
	}
}

// The key covers what stand-ins follow from; a program without them has nothing of it in its own.
func TestAbsentKey(t *testing.T) {
	b, _ := withGenerator(t)
	root := buildtest.Module(t, map[string]string{
		"go.mod": "module example.org/repo\n\ngo 1.24\n",
		"internal/absent/generate/main.go": `package main

import _ "example.org/repo/internal/absent"

func main() {}
`,
		"internal/absent/absent.go":          "package absent\n",
		"internal/absent/generate/x_test.go": "package main\n",
	})
	b.opts.RepoRoot = root
	bin := clouded(t)
	plain := bin
	plain.Absent = ""
	keyOf := func(bin catalog.Binary) string {
		t.Helper()
		key, err := b.Key(t.Context(), bin)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	key, plainKey := keyOf(bin), keyOf(plain)
	if key == plainKey {
		t.Error("leaving modules out does not change the key")
	}
	for _, step := range []struct {
		name, file, text string
		same             bool
	}{
		{"a test of the generator", filepath.Join(root, "internal/absent/generate/x_test.go"), `package main // changed
`, true},
		{"the list", filepath.Join(bin.Dir, "absent.txt"), "module example.org/cloud\n", false},
		{"the generator", filepath.Join(root, "internal/absent/absent.go"), "package absent // changed\n", false},
		{"the generator's Go", filepath.Join(root, "go.mod"), "module example.org/repo\n\ngo 1.25\n", false},
	} {
		if err := os.WriteFile(step.file, []byte(step.text), 0o644); err != nil {
			t.Fatal(err)
		}
		now := keyOf(bin)
		if (now == key) != step.same {
			t.Errorf("%s: keys equal: %v, want %v", step.name, now == key, step.same)
		}
		if keyOf(plain) != plainKey {
			t.Errorf("%s changed the key of a program that leaves nothing out", step.name)
		}
		key = now
	}
}

func TestStandInErrors(t *testing.T) {
	t.Run("a module that cannot be had", func(t *testing.T) {
		b, _ := withGenerator(t)
		t.Setenv("GOPROXY", "off")
		bin := clouded(t)
		edit(t, bin, "go.mod", "replace (", "require example.org/far v1.0.0\n\nreplace (")
		edit(t, bin, "deep/deep.go", "func Ask", "import _ \"example.org/far\"\n\nfunc Ask")
		const sum = " h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
		sums := "example.org/far v1.0.0" + sum + "example.org/far v1.0.0/go.mod" + sum
		if err := os.WriteFile(filepath.Join(bin.Dir, "go.sum"), []byte(sums), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := b.Binary(t.Context(), bin)
		var missing *ModuleError
		if !errors.As(err, &missing) || !strings.Contains(err.Error(), "deep/deep.go") || !strings.Contains(err.Error(), "set GOPROXY to") {
			t.Errorf("%v", err)
		}
	})
	t.Run("go.mod lacks a module", func(t *testing.T) {
		b, _ := withGenerator(t)
		t.Setenv("GOPROXY", "off")
		bin := clouded(t)
		edit(t, bin, "go.mod", "replace (", "require example.org/far v1.0.0\n\nreplace (")
		edit(t, bin, "deep/deep.go", "func Ask", "import _ \"example.org/far\"\n\nfunc Ask")
		_, err := b.Binary(t.Context(), bin)
		if err == nil || !strings.Contains(err.Error(), "go list -mod=mod -deps example.org/prog") {
			t.Errorf("%v", err)
		}
	})
	t.Run("a folder outside", func(t *testing.T) {
		b, _ := withGenerator(t)
		bin := clouded(t)
		edit(t, bin, "go.mod", "=> ./deep", "=> ../../deep")
		if _, err := b.Key(t.Context(), bin); err == nil || !strings.Contains(err.Error(), "folder elsewhere (../../deep)") {
			t.Errorf("%v", err)
		}
	})
	t.Run("no list", func(t *testing.T) {
		b, _ := withGenerator(t)
		bin := clouded(t)
		bin.Absent = "gone.txt"
		if _, err := b.Key(t.Context(), bin); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v", err)
		}
	})
	t.Run("no generator", func(t *testing.T) {
		b, _ := newBuilder(t, t.TempDir())
		if _, err := b.Key(t.Context(), clouded(t)); err == nil || !strings.Contains(err.Error(), "what makes stand-ins") {
			t.Errorf("%v", err)
		}
	})
}

// edit replaces text of a file in bin's folder.
func edit(t *testing.T, bin catalog.Binary, name, old, text string) {
	t.Helper()
	path := filepath.Join(bin.Dir, name)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), old) {
		t.Fatalf("%s has no %q", name, old)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), old, text, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}
