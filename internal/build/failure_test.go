package build

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/mod/sumdb/dirhash"

	"github.com/orrery-dev/orrery/internal/build/buildtest"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/proc"
)

// withDependency is a program that imports example.org/dep v1.0.0, which proxy serves as
// the module proxy protocol (https://go.dev/ref/mod#goproxy-protocol) wants it.
func withDependency(t *testing.T) (bin catalog.Binary, proxy string) {
	t.Helper()
	const goMod = "module example.org/dep\n\ngo 1.24\n"
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	for name, text := range map[string]string{
		"go.mod":       goMod,
		"dep.go":       "package dep\n\nconst Word = \"dependency\"\n",
		"tool/tool.go": "package main\n\nfunc main() { println(\"tool\") }\n",
	} {
		w, err := z.Create("example.org/dep@v1.0.0/" + name)
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(text))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	proxy = buildtest.Module(t, map[string]string{
		"example.org/dep/@v/list":        "v1.0.0\n",
		"example.org/dep/@v/v1.0.0.info": `{"Version":"v1.0.0"}`,
		"example.org/dep/@v/v1.0.0.mod":  goMod,
		"example.org/dep/@v/v1.0.0.zip":  archive.String(),
	})
	h, err := dirhash.HashZip(filepath.Join(proxy, "example.org/dep/@v/v1.0.0.zip"), dirhash.Hash1)
	if err != nil {
		t.Fatal(err)
	}
	hMod, err := dirhash.Hash1([]string{"go.mod"}, func(string) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(goMod)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := buildtest.Module(t, map[string]string{
		"go.mod":  "module example.org/app\n\ngo 1.24\n\nrequire example.org/dep v1.0.0\n",
		"go.sum":  "example.org/dep v1.0.0 " + h + "\nexample.org/dep v1.0.0/go.mod " + hMod + "\n",
		"main.go": "package main\n\nimport \"example.org/dep\"\n\nfunc main() { println(dep.Word) }\n",
	})
	modules := filepath.Join(t.TempDir(), "modcache")
	t.Setenv("GOMODCACHE", modules)
	t.Setenv("GONOSUMDB", "*")
	t.Cleanup(func() { // Go makes it read-only
		filepath.WalkDir(modules, func(p string, _ os.DirEntry, _ error) error { return os.Chmod(p, 0o755) })
	})
	return catalog.Binary{Name: "app", Dir: dir, Package: ".", Version: "v1.0.0", CPUSeconds: 1, MemoryMiB: 100}, proxy
}

func TestModuleFromProxy(t *testing.T) {
	bin, proxy := withDependency(t)
	t.Setenv("GOPROXY", "file://"+proxy)
	b, events := newBuilder(t, t.TempDir())
	path, err := b.Binary(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, path); got != "dependency" {
		t.Errorf("it printed %q", got)
	}
	if !strings.Contains(strings.Join(events.Messages("progress"), "\n"), "compiled") {
		t.Errorf("events %q", events.Messages("progress"))
	}
	// A program of the pinned module itself, without code of ours.
	tool := bin
	tool.Name, tool.Package = "tool", "example.org/dep/tool"
	if path, err = b.Binary(t.Context(), tool); err != nil {
		t.Fatal(err)
	}
	if got := run(t, path); got != "tool" {
		t.Errorf("it printed %q", got)
	}
}

func TestModuleErrors(t *testing.T) {
	forbidden := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "This module version is not available", http.StatusForbidden)
	}))
	defer forbidden.Close()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	missing := httptest.NewServer(http.NotFoundHandler())
	defer missing.Close()
	const dep = "example.org/dep@v1.0.0"
	for name, tc := range map[string]struct{ proxy, module, reason string }{
		"403":         {forbidden.URL, dep, "403 Forbidden"},
		"404":         {missing.URL, dep, "404 Not Found"},
		"unreachable": {closed.URL, dep, "connection refused"},
		"off":         {"off", "imported at main.go:3:8", "disabled by GOPROXY=off"},
	} {
		t.Run(name, func(t *testing.T) {
			bin, _ := withDependency(t)
			t.Setenv("GOPROXY", tc.proxy)
			b, _ := newBuilder(t, t.TempDir())
			_, err := b.Binary(t.Context(), bin)
			var failed *ModuleError
			if !errors.As(err, &failed) {
				t.Fatalf("error %v, want a ModuleError", err)
			}
			if failed.Module != tc.module || failed.Proxy != tc.proxy || !strings.Contains(failed.Reason, tc.reason) {
				t.Errorf("%+v, want %+v", failed, tc)
			}
			for _, remedy := range []string{"build app: ", "GOPROXY", "mirror", "module cache", "bundle"} {
				if !strings.Contains(err.Error(), remedy) {
					t.Errorf("message does not say %q: %v", remedy, err)
				}
			}
		})
	}
}

func TestDefaultProxyIsAskedAlone(t *testing.T) {
	for set, want := range map[string]string{
		"https://proxy.golang.org,direct": "https://proxy.golang.org",
		"https://mirror.example,direct":   "https://mirror.example,direct",
		"off":                             "off",
	} {
		t.Setenv("GOPROXY", set)
		tc, err := findToolchain(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if got := tc.env["GOPROXY"]; got != want {
			t.Errorf("GOPROXY %q became %q, want %q", set, got, want)
		}
	}
}

func TestGoErrors(t *testing.T) {
	bin := buildtest.Hello(t)
	t.Run("too old", func(t *testing.T) {
		bin := bin
		bin.Dir = buildtest.Module(t, map[string]string{"go.mod": "module m\n\ngo 1.99.1\n", "main.go": "package main\n\nfunc main() {}\n"})
		b, _ := newBuilder(t, t.TempDir())
		_, err := b.Binary(t.Context(), bin)
		var failed *GoError
		if !errors.As(err, &failed) || failed.Want != "1.99.1" || !strings.HasPrefix(failed.Have, "go1.") {
			t.Errorf("error %v, want a GoError for 1.99.1", err)
		}
	})
	t.Run("not on PATH", func(t *testing.T) {
		b, _ := newBuilder(t, t.TempDir())
		t.Setenv("PATH", t.TempDir())
		_, err := b.Binary(t.Context(), bin)
		var failed *GoError
		if !errors.As(err, &failed) || failed.Want != "1.24" || failed.Have != "" || !strings.Contains(err.Error(), "not on PATH") {
			t.Errorf("error %v, want a GoError for 1.24", err)
		}
	})
	t.Run("what is cached needs none", func(t *testing.T) {
		cache := t.TempDir()
		b, _ := newBuilder(t, cache)
		want, err := b.Binary(t.Context(), bin)
		if err != nil {
			t.Fatal(err)
		}
		described, err := b.Describe(t.Context(), bin)
		if err != nil {
			t.Fatal(err)
		}
		tools, err := b.Toolchain(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		without, _ := newBuilder(t, cache)
		t.Setenv("PATH", t.TempDir())
		if got, err := without.Binary(t.Context(), bin); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
		if got, err := without.Describe(t.Context(), bin); err != nil || !reflect.DeepEqual(got, described) {
			t.Errorf("described as %+v, %v; want %+v", got, err, described)
		}
		if got, err := without.Toolchain(t.Context()); err != nil || got != tools {
			t.Errorf("Go %+v, %v; want %+v", got, err, tools)
		}
		other := bin
		other.Name = "other"
		if _, err := without.Binary(t.Context(), other); !noGo(err) {
			t.Errorf("what is not cached: %v, want that there is no Go", err)
		}
	})
}

func TestMissingHeader(t *testing.T) {
	bin := buildtest.Hello(t)
	bin.CGO, bin.CHeaders = true, []string{"liborrery-dev"}
	bin.Dir = buildtest.Module(t, map[string]string{
		"go.mod":  "module m\n\ngo 1.24\n",
		"main.go": "package main\n\n// #include <orrery/missing.h>\nimport \"C\"\n\nfunc main() {}\n",
	})
	b, _ := newBuilder(t, t.TempDir())
	_, err := b.Binary(t.Context(), bin)
	var failed *HeaderError
	if !errors.As(err, &failed) || !strings.Contains(err.Error(), "apt-get install gcc libc6-dev liborrery-dev") {
		t.Errorf("error %v, want a HeaderError that names liborrery-dev", err)
	}
}

// What compilers and pkg-config say on machines that lack something, word for word.
func TestExplain(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	bin := buildtest.Hello(t)
	bin.CGO, bin.CHeaders = true, []string{"libseccomp-dev"}
	src, err := b.source(bin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.toolchain(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	for said, want := range map[string]error{
		`# runtime/cgo
cgo: C compiler "gcc" not found: exec: "gcc": executable file not found in $PATH`: &HeaderError{},
		`# github.com/seccomp/libseccomp-golang
# [pkg-config --cflags  -- libseccomp]
pkg-config: exec: "pkg-config": executable file not found in $PATH`: &HeaderError{},
		`# [pkg-config --cflags  -- libseccomp]
Package libseccomp was not found in the pkg-config search path.
Perhaps you should add the directory containing 'libseccomp.pc'`: &HeaderError{},
		`/usr/bin/ld: cannot find -lseccomp: No such file or directory
collect2: error: ld returned 1 exit status`: &HeaderError{},
		`./x.go:10:10: fatal error: seccomp.h: No such file or directory
   10 | #include <seccomp.h>`: &HeaderError{},
		`go: writing stat cache: write /c/x: no space left on device`:                              &SpaceError{},
		`go: go.mod requires go >= 1.99 (running go 1.26.8; GOTOOLCHAIN=local)`:                    &GoError{},
		`main.go:4:2: github.com/a/b@v1.0.0: Get "https://p/x": dial tcp: lookup p: no such host`:  &ModuleError{},
		`go: k8s.io/api@v0.37.2: reading https://p/@v/v0.37.2.mod: 503 Service Unavailable`:        &ModuleError{},
		"go: a.b/c@v1.0.0-20250101000000-abcdefabcdef: reading file:///p/@v/x.zip: no such file\n": &ModuleError{},
		`/home/me/go/pkg/mod/a.b/c@v1.0.0/x.go:3:1: undefined: y`:                                  nil,
		"# a.b/c\nflag provided but not defined":                                                   nil,
	} {
		failed := &proc.Error{Command: "go build", Code: 1, Stderr: said, Err: &exec.ExitError{}}
		got := b.explain(bin, src, newMeter(bin, "main", func() {}), failed)
		if want == nil {
			if got != error(failed) { //nolint:errorlint // the very same error, not one that wraps it
				t.Errorf("%s\nbecame %v", said, got)
			}
		} else if reflect.TypeOf(got) != reflect.TypeOf(want) {
			t.Errorf("%s\nbecame a %T: %v; want a %T", said, got, got, want)
		}
	}
}

func TestSourceErrors(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	good := buildtest.Hello(t)
	for name, tc := range map[string]struct {
		change func(*catalog.Binary)
		want   string
	}{
		"name is a path":  {func(b *catalog.Binary) { b.Name = "../x" }, "file name"},
		"no package":      {func(b *catalog.Binary) { b.Package = "" }, "no package"},
		"no folder":       {func(b *catalog.Binary) { b.Dir = "" }, "load it through the catalogue"},
		"relative folder": {func(b *catalog.Binary) { b.Dir = "x" }, "not absolute"},
		"no go.mod":       {func(b *catalog.Binary) { b.Dir = t.TempDir() }, "go.mod"},
		"no such package": {func(b *catalog.Binary) { b.Package = "./none" }, "none"},
		"foreign package": {func(b *catalog.Binary) { b.Package = "example.org/other/cmd" }, "no module in"},
	} {
		bin := good
		tc.change(&bin)
		if _, err := b.Key(t.Context(), bin); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	broken := good
	broken.Dir = buildtest.Module(t, map[string]string{"go.mod": "module m\n\ngo 1.24\n", "main.go": "package main\n\nfunc main() { nonsense() }\n"})
	if _, err := b.Binary(t.Context(), broken); err == nil || !strings.Contains(err.Error(), "undefined: nonsense") {
		t.Errorf("compile error: %v", err)
	}
	unpinned, proxy := withDependency(t)
	t.Setenv("GOPROXY", "file://"+proxy)
	if err := os.Remove(filepath.Join(unpinned.Dir, "go.sum")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Binary(t.Context(), unpinned); err == nil || !strings.Contains(err.Error(), "do not pin everything") {
		t.Errorf("no go.sum: %v", err)
	}
}

func TestDiskFull(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the runtime without a cache")
	}
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=14m"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	b, err := NewBuilder(Options{CacheDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, bin catalog.Binary) {
		t.Helper()
		_, err := b.Binary(t.Context(), bin)
		var failed *SpaceError
		if !errors.As(err, &failed) || failed.Need <= 0 || failed.Dir != dir || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("%s: error %v, want a SpaceError", what, err)
		}
		if left, _ := os.ReadDir(filepath.Join(dir, "bin", ".tmp")); len(left) != 0 {
			t.Errorf("%s: left in .tmp: %v", what, left)
		}
		if ok, err := b.Cached(t.Context(), bin); ok || err != nil {
			t.Errorf("%s: Cached = %v, %v", what, ok, err)
		}
	}
	bin := buildtest.Hello(t)
	big := bin
	big.CPUSeconds = 900
	check("refused beforehand", big)
	// The estimate says it fits; the runtime alone fills the disk.
	check("runs full", bin)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=400m"); err != nil {
		t.Fatal(err)
	}
	path, err := b.Binary(t.Context(), bin)
	if err != nil {
		t.Fatalf("with room again: %v", err)
	}
	if got := run(t, path); got != "hello world" {
		t.Errorf("it printed %q", got)
	}
}
