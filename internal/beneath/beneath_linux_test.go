package beneath

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "log")
	secret := filepath.Join(top, "secret")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "sub"), 0o755),
		os.WriteFile(secret, []byte("secret"), 0o600),
		os.WriteFile(filepath.Join(dir, "plain"), []byte("plain"), 0o600),
		os.WriteFile(filepath.Join(dir, "sub", "plain"), []byte("plain"), 0o600),
		os.Symlink(secret, filepath.Join(dir, "absolute")),
		os.Symlink("../secret", filepath.Join(dir, "relative")),
		os.Symlink("plain", filepath.Join(dir, "inside")),
		os.Symlink("..", filepath.Join(dir, "up")),
		os.Symlink(filepath.Join(top, "new"), filepath.Join(dir, "dangling")),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"absolute", "relative", "inside", "up/secret", "../secret", "dangling", "pipe", "sub", "sub/../../secret"} {
		for _, flag := range []int{os.O_RDONLY, os.O_WRONLY | os.O_CREATE | os.O_TRUNC, os.O_RDWR | os.O_CREATE | os.O_APPEND} {
			if f, err := Open(dir, name, flag, 0o600); err == nil {
				b, _ := os.ReadFile(f.Name())
				f.Close()
				if filepath.Dir(f.Name()) != dir || string(b) == "secret" {
					t.Errorf("%s was opened as %s", name, f.Name())
				}
			}
		}
	}
	if b, err := os.ReadFile(secret); err != nil || string(b) != "secret" {
		t.Errorf("the file outside is now %q, %v", b, err)
	}
	if _, err := os.Lstat(filepath.Join(top, "new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made outside: %v", err)
	}
	for _, name := range []string{"plain", "sub/plain", "/sub/plain"} {
		f, err := Open(dir, name, os.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if _, err := Open(dir, "inside", os.O_RDONLY, 0); !errors.Is(err, ErrNotRegular) {
		t.Errorf("a link: %v", err)
	}
	if _, err := Open(dir, "absent", os.O_RDONLY, 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if _, err := Path(dir, "up/secret"); err == nil {
		t.Error("a path outside")
	}
}
