package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDisk(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sub", "abc")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("abc"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	// FIPS 180-2, appendix B.1.
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if sum, err := SHA256(file); err != nil || sum != want {
		t.Errorf("SHA256 = %s, %v; want %s", sum, err, want)
	}
	if n := Size(dir); n != 3 {
		t.Errorf("Size = %d; links do not count", n)
	}
	for _, path := range []string{file, dir} {
		if err := Sync(path); err != nil {
			t.Error(err)
		}
	}
	none := filepath.Join(dir, "none")
	if _, err := SHA256(none); err == nil || !strings.Contains(err.Error(), none) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := Sync(none); err == nil {
		t.Error("what is not there was synced")
	}
	if n := Size(none); n != 0 {
		t.Errorf("what is not there has %d bytes", n)
	}
}
