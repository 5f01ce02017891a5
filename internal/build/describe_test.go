package build

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/build/buildtest"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/lock"
)

// What is described changes just with what decides the bytes, and says which that is.
func TestDescribe(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	bin := buildtest.Hello(t)
	before, err := b.Describe(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	if before.SHA256 != "" || before.Tree == "" || !strings.HasPrefix(before.Go, "go1.") {
		t.Errorf("not built yet: %+v", before)
	}
	path, err := b.Binary(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := disk.SHA256(path)
	if err != nil {
		t.Fatal(err)
	}
	built, err := b.Describe(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	if built.SHA256 != sum {
		t.Errorf("sha256 %s, the file's is %s", built.SHA256, sum)
	}
	locked := lock.Platform{Binaries: map[string]lock.Binary{bin.Name: built}}
	differs := func(want string) {
		t.Helper()
		have, err := b.Describe(t.Context(), bin)
		if err != nil {
			t.Fatal(err)
		}
		drift, _ := lock.Check(locked, lock.Platform{Binaries: map[string]lock.Binary{bin.Name: have}}, true)
		switch {
		case want == "" && len(drift) > 0:
			t.Errorf("drift %v", drift)
		case want != "" && (len(drift) != 1 || !strings.HasPrefix(drift[0].Differences[0].Field, want)):
			t.Errorf("drift %v, want one of %s", drift, want)
		}
	}
	differs("")
	bin.LDFlags = "-X main.who=lock"
	differs("flags")
	bin.LDFlags = ""
	main := filepath.Join(bin.Dir, "main.go")
	data, err := os.ReadFile(main)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(main, append(data, "// changed\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	differs("tree")
}

func TestCTools(t *testing.T) {
	got := cTools("gcc: gcc (Debian) 12\nld: GNU ld 2.40\ndpkg-query: libc6-dev 2.36 amd64 installed\nlibseccomp-dev 2.5 amd64 installed\n\n")
	want := []string{"GNU ld 2.40", "gcc (Debian) 12", "libc6-dev 2.36 amd64", "libseccomp-dev 2.5 amd64"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
