package build

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/build/buildtest"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/filelock"
)

// cacheOf makes a build cache of size bytes that was used at the given time.
func cacheOf(t *testing.T, dir string, size int, used time.Time) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "00"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{filepath.Join(dir, "00", "aa-d"): make([]byte, size), dir + ".lock": nil} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(dir+".lock", used, used); err != nil {
		t.Fatal(err)
	}
}

func TestTrimCaches(t *testing.T) {
	now := time.Now()
	for name, tc := range map[string]struct {
		keep int64
		held string
		want []string
	}{
		"all fit":                       {keep: 1000, want: []string{"", "-a", "-b", "-c", "-std-amd64"}},
		"the oldest goes":               {keep: 650, want: []string{"", "-b", "-c", "-std-amd64"}},
		"one that is too large goes":    {keep: 390, want: []string{"", "-a", "-c", "-std-amd64"}},
		"nothing is kept":               {keep: 0, want: []string{"-std-amd64"}},
		"one that is in use stays":      {keep: 0, held: "-b", want: []string{"-b", "-std-amd64"}},
		"and counts for nothing":        {keep: 390, held: "-b", want: []string{"", "-a", "-b", "-c", "-std-amd64"}},
		"the shared one is like others": {keep: 100, want: []string{"-c", "-std-amd64"}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := NewBuilder(Options{CacheDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			at := func(suffix string) string { return filepath.Join(b.opts.CacheDir, goCachePrefix+suffix) }
			cacheOf(t, at("-a"), 100, now.Add(-4*time.Hour))
			cacheOf(t, at(""), 200, now.Add(-3*time.Hour))
			cacheOf(t, at("-b"), 350, now.Add(-2*time.Hour))
			cacheOf(t, at("-c"), 90, now.Add(-time.Hour))
			cacheOf(t, at("-std-amd64"), 500, now.Add(-5*time.Hour))
			if tc.held != "" {
				lock, err := filelock.Try(at(tc.held)+".lock", filelock.Shared)
				if err != nil {
					t.Fatal(err)
				}
				defer lock.Close()
			}
			if err := b.trimCaches(tc.keep); err != nil {
				t.Fatal(err)
			}
			var left []string
			dirs, _ := filepath.Glob(at("*"))
			for _, dir := range dirs {
				if isFolder(dir) {
					left = append(left, strings.TrimPrefix(dir, at("")))
				}
			}
			slices.Sort(left)
			if !slices.Equal(left, tc.want) {
				t.Errorf("left are %q, want %q", left, tc.want)
			}
		})
	}
}

func isFolder(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// A developer's own cache that stands in for ours is not ours to remove.
func TestTrimLeavesLinks(t *testing.T) {
	b, err := NewBuilder(Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), "own")
	cacheOf(t, own, 10, time.Now())
	link := filepath.Join(b.opts.CacheDir, goCachePrefix)
	if err := os.Symlink(own, link); err != nil {
		t.Fatal(err)
	}
	if err := b.trimCaches(0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(link, "00", "aa-d")); err != nil {
		t.Error(err)
	}
}

func TestCacheBeginsWithStandardLibrary(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	bin := buildtest.Hello(t)
	bin.CPUSeconds, bin.ModuleSeconds = 1, ownCache
	src, err := b.source(bin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.key(t.Context(), bin, src); err != nil { // finds Go
		t.Fatal(err)
	}
	sum, err := b.Toolchain(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// As if it had been compiled: that takes most of a minute.
	std := filepath.Join(b.opts.CacheDir, goCachePrefix+"-std-"+b.arch())
	cacheOf(t, std, 10, time.Now())
	for name, data := range map[string]string{"compiled-by": sum.Sum, "00/aa-a": "v1"} {
		if err := os.WriteFile(filepath.Join(std, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c, err := b.holdCache(t.Context(), bin, src)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if name := filepath.Base(c.dir); !strings.HasPrefix(name, goCachePrefix+"-") || strings.Contains(name, "/") {
		t.Fatalf("the cache is %s", c.dir)
	}
	for range 2 { // the second finds it
		if err := b.prepare(t.Context(), c, bin, t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	same := func(name string) bool {
		one, err := os.Stat(filepath.Join(std, name))
		if err != nil {
			t.Fatal(err)
		}
		other, err := os.Stat(filepath.Join(c.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return os.SameFile(one, other)
	}
	if !same("00/aa-d") || same("00/aa-a") {
		t.Errorf("compiled code is shared: %v, want true; what Go writes again: %v, want false", same("00/aa-d"), same("00/aa-a"))
	}
	if _, err := os.Stat(filepath.Join(c.dir, "compiled-by")); err == nil {
		t.Error("the mark of the standard library was copied")
	}
	if err := b.trimCaches(0); err != nil {
		t.Fatal(err)
	}
	if !isFolder(c.dir) {
		t.Error("a cache was removed while its build held it")
	}

	small := bin
	small.ModuleSeconds = ownCache - 1
	if dir := b.goCacheDir(small, src); filepath.Base(dir) != goCachePrefix {
		t.Errorf("a small module has the cache %s", dir)
	}
}

// Compiled in parts, a program is the same to the byte, and its last part has nothing left to
// compile but itself.
func TestBuildInParts(t *testing.T) {
	never := strconv.FormatInt(time.Now().UnixNano(), 10) // compiled before
	dir := buildtest.Module(t, map[string]string{
		"go.mod":                "module example.org/parts\n\ngo 1.24\n",
		"main.go":               "package main\n\nimport \"example.org/parts/a\"\n\nfunc main() { println(a.Word()) }\n",
		"a/a.go":                "package a\n\nimport (\n\t\"example.org/parts/internal/b\"\n\t\"strings\"\n)\n\nfunc Word() string { return strings.ToUpper(b.Word) }\n",
		"internal/b/b.go":       "package b\n\nimport \"example.org/parts/internal/b/c\"\n\nconst Word = c.Word + \"b\"\n",
		"internal/b/c/c.go":     "package c\n\nconst Word = \"" + never + "\"\n",
		"internal/unused/un.go": "package unused\n\nvar X int = \"does not compile\"\n",
	})
	bin := catalog.Binary{Name: "parts", Dir: dir, Package: ".", Version: "v1.0.0", CPUSeconds: 1}
	b, _ := newBuilder(t, t.TempDir())
	src, err := b.source(bin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.key(t.Context(), bin, src); err != nil {
		t.Fatal(err)
	}
	sum := func(way string, cache string, inParts bool) string {
		t.Helper()
		run := &goRun{bin: bin, dir: src.dir, path: b.go_.path, env: b.environment(b.go_, false, cache)}
		m := newMeter(bin, src.importPath(bin), func() {})
		out := filepath.Join(t.TempDir(), "parts")
		if inParts {
			before, err := run.list(t.Context(), m)
			if err != nil {
				t.Fatal(err)
			}
			want := []string{"example.org/parts/internal/b/c", "example.org/parts/internal/b", "example.org/parts/a"}
			if !slices.Equal(before, want) {
				t.Fatalf("packages before the program: %q, want %q", before, want)
			}
			for i, p := range before {
				if _, err := run.build(t.Context(), out, []string{p}, m); err != nil {
					t.Fatalf("%s, part %d: %v", way, i, err)
				}
				if _, err := os.Stat(out); err == nil {
					t.Fatalf("%s, part %d wrote the program", way, i)
				}
			}
			if before, err = run.list(t.Context(), m); err != nil || len(before) > 0 {
				t.Errorf("left to compile: %q (%v), want nothing", before, err)
			}
		}
		if _, err := run.build(t.Context(), out, []string{bin.Package}, m); err != nil {
			t.Fatalf("%s: %v", way, err)
		}
		data, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.Sum256(data)
		return hex.EncodeToString(h[:])
	}
	// Both start from the standard library as the developer's cache has it.
	cache := filepath.Join(b.opts.CacheDir, goCachePrefix)
	inParts := sum("in parts", cache, true)
	if whole := sum("at once", cache, false); whole != inParts {
		t.Errorf("at once %s, in parts %s", whole, inParts)
	}
}

func TestPartsOf(t *testing.T) {
	var packages []string
	for i := range 3*partPackages - 1 {
		packages = append(packages, strconv.Itoa(i))
	}
	for n, want := range map[int][]int{0: nil, 1: nil, partPackages: nil, partPackages + 1: {partPackages}, len(packages): {partPackages, partPackages}} {
		var got []int
		var all []string
		for _, p := range partsOf(packages[:n]) {
			got, all = append(got, len(p)), append(all, p...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d packages make parts of %v, want %v", n, got, want)
		}
		if !slices.Equal(all, packages[:len(all)]) {
			t.Errorf("%d packages: a part is out of order", n)
		}
	}
}

// A go command that lists packages for a program with a profile names some "P [PROGRAM]".
func TestListOfProfiledProgram(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	bin := buildtest.Hello(t)
	src, err := b.source(bin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.key(t.Context(), bin, src); err != nil {
		t.Fatal(err)
	}
	fake := filepath.Join(t.TempDir(), "go")
	script := "#!/bin/sh\necho 'true true fmt [hello]'\necho 'true false example.org/x [hello]'\necho 'false false y'\necho 'true false hello'\n"
	if err := os.WriteFile(fake, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	m := newMeter(bin, "hello", func() {})
	before, err := (&goRun{bin: bin, dir: src.dir, path: fake, env: os.Environ()}).list(t.Context(), m)
	if err != nil || len(before) != 0 {
		t.Errorf("parts %q, %v; want none", before, err)
	}
	if m.all != 4 || len(m.todo) != 3 {
		t.Errorf("counted %d packages, %d to compile; want 4 and 3", m.all, len(m.todo))
	}
}

// What compilers run in has nothing of the person's but where things are.
func TestBuildersKnowNoPasswords(t *testing.T) {
	for _, name := range []string{"ORRERY_KEY_PASSWORD", "AWS_SECRET_ACCESS_KEY", "CC", "CGO_CFLAGS", "GOFLAGS", "LANG", "CPATH"} {
		t.Setenv(name, "theirs")
	}
	for _, kv := range (&Builder{}).environment(&toolchain{}, true, "/cache") {
		if strings.HasSuffix(kv, "=theirs") {
			t.Error(kv)
		}
	}
}
