package driver_test

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/orrery-dev/orrery/internal/driver"
)

func TestCheckEtcdSnapshot(t *testing.T) {
	page := make([]byte, 4096)
	sum := sha256.Sum256(page)
	good := append(page, sum[:]...)
	bad := append([]byte{1}, good[1:]...)
	for name, c := range map[string]struct {
		content []byte
		ok      bool
		damaged bool
	}{
		"whole": {good, true, false}, "a bit more": {bad, false, true}, "cut off": {good[:4000], false, false},
		"without a hash": {page, false, false}, "empty": {nil, false, false}, "only a hash": {sum[:], false, false},
	} {
		file := filepath.Join(t.TempDir(), "s.db")
		if err := os.WriteFile(file, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		err := driver.CheckEtcdSnapshot(file)
		if (err == nil) != c.ok || errors.Is(err, driver.ErrEtcdSnapshot) != c.damaged {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := driver.CheckEtcdSnapshot("/nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
