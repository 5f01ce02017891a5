package app

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/spec"
)

// bare is a session on a machine with an empty cache and only the given programs, each a shell
// script.
func bare(t *testing.T, programs map[string]string) *session {
	t.Helper()
	root, err := catalog.FindRoot(".")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, script := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	t.Setenv("ORRERY_CACHE_DIR", t.TempDir())
	return &session{options: &options{catalog: root, streams: &streams{out: io.Discard, err: io.Discard}}, spec: spec.Default(), stateDir: t.TempDir()}
}

const clang19 = "echo Debian clang version 19.1.7"

func TestCompiler(t *testing.T) {
	for _, c := range []struct {
		name     string
		programs map[string]string
		want     string // begins the answer; "" wants an error
		says     []string
	}{
		{name: "nothing", says: []string{"packages of Debian cannot be fetched here: there is no apt-get", "apt-get install clang (18.1 or later)"}},
		{name: "too old", programs: map[string]string{"clang": "echo clang version 14.0.6"}, says: []string{"is version 14.0, too old"}},
		{name: "the host's", programs: map[string]string{"clang-19": clang19}, want: "/"},
		{name: "an old one and a new one", programs: map[string]string{"clang": "echo clang version 14.0.6", "clang-18": "echo clang version 18.1.8"}, want: "/"},
		{name: "Debian's", programs: map[string]string{"apt-get": "", "dpkg-deb": "", "clang": clang19}, want: "llvm 19"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := os.Stat("/usr/share/keyrings/debian-archive-keyring.gpg"); err != nil && c.programs["dpkg-deb"] == "" && strings.HasPrefix(c.want, "llvm") {
				t.Skip("no keyring of Debian's")
			}
			s := bare(t, c.programs)
			got, err := s.compiler()(t.Context())
			if (err == nil) != (c.want != "") || !strings.HasPrefix(got, c.want) {
				t.Fatalf("%q, %v", got, err)
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v: want %q in it", err, want)
				}
			}
		})
	}
}

func TestLinkCompiler(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "llvm")
	if err := os.MkdirAll(filepath.Join(dir, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, clang := range []string{"/usr/bin/clang-18", "/usr/bin/clang-18", "/usr/bin/clang-19"} {
		if err := linkCompiler(dir, clang); err != nil {
			t.Fatal(err)
		}
		if to, err := os.Readlink(filepath.Join(dir, "bin", "clang")); err != nil || to != clang {
			t.Errorf("it leads to %q, %v", to, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "lib")); err == nil {
		t.Error("libraries of another compiler are left")
	}
}

func TestShareObjects(t *testing.T) {
	s := bare(t, nil)
	p := &platform{session: s}
	at := filepath.Join(s.stateDir, "dist", "objects")
	for range 2 {
		if err := p.shareObjects(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(at); err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
			t.Errorf("%v, %v", info, err)
		}
	}
	t.Setenv("ORRERY_CACHE_DIR", t.TempDir()) // moved
	if err := p.shareObjects(); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(at); err != nil || to != filepath.Join(cacheRoot(), "objects") {
		t.Errorf("it leads to %q, %v", to, err)
	}
}

func TestBundledNetwork(t *testing.T) {
	for plugin, want := range map[string]string{"ptp": "ptp", "cilium": "cilium", "auto": "cilium"} {
		if got := bundledNetwork(plugin); got != want {
			t.Errorf("%s: the bundle is made for %s, want %s", plugin, got, want)
		}
	}
}

// What is of no module, such as LLVM, names none, wherever orrery is run.
func TestCatalogFilesOfTheCurrentFolder(t *testing.T) {
	root, err := catalog.FindRoot(".")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(root)
	cat, err := catalog.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	files, err := catalogFiles(cat)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"go.mod", "infra/native/cilium/go.mod", "infra/native/distribution.yaml"} {
		if n := strings.Count("\n"+strings.Join(files, "\n")+"\n", "\n"+want+"\n"); n != 1 {
			t.Errorf("%s is there %d times", want, n)
		}
	}
}
