package atomicfile

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for content, mode := range map[string]fs.FileMode{"first": 0o644, "": 0o600, "longer than that": 0o666} {
		if err := Write(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err != nil || statErr != nil || string(have) != content || info.Mode() != mode {
			t.Errorf("%q with mode %v, %v, %v; want %q with %v", have, info.Mode(), err, statErr, content, mode)
		}
	}
	// What cannot be replaced stays, and nothing is left beside it.
	folder := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(folder, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(folder, nil, 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if err := Write(filepath.Join(dir, "nowhere", "file"), nil, 0o600); err == nil {
		t.Error("a folder was made")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// A person names /dev/null, or root is given a pipe: what stands there is the machine's.
func TestWhatIsNoFileIsNotReplaced(t *testing.T) {
	at := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, replace := range map[string]func() error{
		"Write":   func() error { return Write(at, []byte("x"), 0o600) },
		"Replace": func() error { return Replace(at, func(tmp string) error { return os.WriteFile(tmp, nil, 0o600) }) },
	} {
		if err := replace(); !errors.Is(err, ErrNotAFile) {
			t.Errorf("%s: %v, want %v", name, err, ErrNotAFile)
		}
	}
	info, err := os.Lstat(at)
	if err != nil || info.Mode()&fs.ModeSocket == 0 {
		t.Errorf("the socket is gone: %v, %v", info, err)
	}
	if left, err := os.ReadDir(filepath.Dir(at)); err != nil || len(left) != 1 {
		t.Errorf("left beside it: %v, %v", left, err)
	}
}
