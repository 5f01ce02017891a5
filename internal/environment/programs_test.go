package environment

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/orrery-dev/orrery/internal/driver"
)

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
	dist, shared := driver.Dist(filepath.Join(t.TempDir(), "dist")), filepath.Join(t.TempDir(), "objects")
	for _, shared := range []string{shared, shared, filepath.Join(t.TempDir(), "moved")} {
		if err := shareObjects(dist, shared); err != nil {
			t.Fatal(err)
		}
		if to, err := os.Readlink(dist.Objects()); err != nil || to != shared {
			t.Errorf("it leads to %q, %v", to, err)
		}
		if info, err := os.Stat(dist.Objects()); err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 {
			t.Errorf("%v, %v", info, err)
		}
	}
}
