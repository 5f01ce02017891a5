package supply

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

func TestClangVersions(t *testing.T) {
	for output, fits := range map[string]bool{
		"Debian clang version 19.1.7 (3~deb12u1)\nTarget: x86_64-pc-linux-gnu\n": true,
		"clang version 18.1.0":                   true,
		"clang version 18.0.9":                   false,
		"Ubuntu clang version 14.0.0-1ubuntu1.1": false,
		"clang version 20.1.0-rc1":               true,
		"gcc (Debian 12.2.0-14) 12.2.0":          false,
		"":                                       false,
	} {
		if err := checkClang("/usr/bin/clang", output); (err == nil) != fits {
			t.Errorf("%q: %v", output, err)
		}
	}
}

const clang19 = "echo Debian clang version 19.1.7"

// bare is the supply of this repository on a machine with an empty cache and only the given
// programs, each a shell script.
func bare(t *testing.T, programs map[string]string) *Supply {
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
	at := Folder(root)
	cat, err := at.Catalog()
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Location: at, Catalog: cat, CacheDir: t.TempDir(), Images: spec.Default().Images, Sink: ui.Discard, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

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
			got, err := s.Compiler(t.Context())
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

// What a bundle takes of this repository is a catalogue by itself.
func TestCatalogFilesAreEnough(t *testing.T) {
	root, err := catalog.FindRoot(".")
	if err != nil {
		t.Fatal(err)
	}
	cat, err := catalog.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	files, err := catalogFiles(cat)
	if err != nil {
		t.Fatal(err)
	}
	there := t.TempDir()
	for _, name := range files {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(there, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(there, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	carried, err := catalog.Load(there)
	if err != nil {
		t.Fatal(err)
	}
	if len(carried.Components) != len(cat.Components) {
		t.Errorf("%d components of %d", len(carried.Components), len(cat.Components))
	}
}
