package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFileWrapper(t *testing.T) {
	wrapper := func(key string) (*fileWrapper, error) {
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
		return newFileWrapper(file)
	}
	one, err := wrapper(strings.Repeat("a", minSealKey) + "\n")
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := one.Encrypt(t.Context(), []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	same, err := wrapper(strings.Repeat("a", minSealKey))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := same.Decrypt(t.Context(), sealed); err != nil || string(got) != "secret" {
		t.Errorf("with the same key: %q, %v", got, err)
	}
	other, err := wrapper(strings.Repeat("b", minSealKey))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Decrypt(t.Context(), sealed); err == nil || !strings.Contains(err.Error(), "restore the Secret vault-seal") {
		t.Errorf("with another key: %v", err)
	}
	for _, short := range []string{"", strings.Repeat("a", minSealKey-1)} {
		if _, err := wrapper(short); err == nil {
			t.Errorf("a key of %d characters is taken", len(short))
		}
	}
	if _, err := newFileWrapper(filepath.Join(t.TempDir(), "gone")); err == nil {
		t.Error("a file that is not there is taken")
	}
}
