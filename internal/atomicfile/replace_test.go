package atomicfile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestReplace(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "name")
	for _, to := range []string{"one", "two"} {
		if err := Replace(target, func(tmp string) error { return os.Symlink(to, tmp) }); err != nil {
			t.Fatal(err)
		}
		if have, err := os.Readlink(target); err != nil || have != to {
			t.Errorf("leads to %q, %v; want %q", have, err, to)
		}
	}
	failed := errors.New("disk full")
	err := Replace(target, func(tmp string) error { return errors.Join(os.WriteFile(tmp, []byte("half"), 0o600), failed) })
	if !errors.Is(err, failed) {
		t.Errorf("error %v, want %v", err, failed)
	}
	if have, err := os.Readlink(target); err != nil || have != "two" {
		t.Errorf("after a failure it leads to %q, %v", have, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
