package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The toolchain is hashed once, and again when it was exchanged.
func TestToolchain(t *testing.T) {
	dir := t.TempDir()
	// A builder each, since one keeps what it has hashed.
	toolchain := func() (Toolchain, error) {
		b, _ := newBuilder(t, dir)
		return b.Toolchain(t.Context())
	}
	first, err := toolchain()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(first.Version, "go1.") || !strings.HasPrefix(first.Sum, "h1:") {
		t.Errorf("%+v", first)
	}
	file := filepath.Join(dir, "toolchain.json")
	edit := func(old, new string) {
		t.Helper()
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(data), old) {
			t.Fatalf("no %q in %s", old, data)
		}
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(data), old, new)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	edit(first.Sum, "h1:kept")
	if kept, err := toolchain(); err != nil || kept.Sum != "h1:kept" {
		t.Errorf("it was hashed again: %+v, %v", kept, err)
	}
	edit("VERSION ", "VERSION 1")
	if again, err := toolchain(); err != nil || again != first {
		t.Errorf("after an exchange: %+v, %v; want %+v", again, err, first)
	}
}
