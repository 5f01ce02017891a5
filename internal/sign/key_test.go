package sign

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKey(t *testing.T) {
	dir := t.TempDir()
	p := Passwords{ring: &memory{}}
	made, err := EnsureKey(t.Context(), dir, p)
	if err != nil {
		t.Fatal(err)
	}
	if made.Notice != "" || made.Warning != "" {
		t.Errorf("%q %q", made.Notice, made.Warning)
	}
	for file, mode := range map[string]os.FileMode{PrivateFile: 0o600, PublicFile: 0o644} {
		info, err := os.Stat(filepath.Join(dir, file))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
	again, err := EnsureKey(t.Context(), dir, p)
	if err != nil {
		t.Fatal(err)
	}
	if again.Public().Fingerprint() != made.Public().Fingerprint() || !strings.HasPrefix(made.Public().Fingerprint(), "SHA256:") {
		t.Errorf("%s, then %s", made.Public().Fingerprint(), again.Public().Fingerprint())
	}
	sig, err := again.SignBlob([]byte("data"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := LoadPublicKey(filepath.Join(dir, PublicFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := public.VerifyBlob([]byte("data"), sig); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"other data": public.VerifyBlob([]byte("Data"), sig),
		"cut":        public.VerifyBlob([]byte("data"), sig[:len(sig)-1]),
		"empty":      public.VerifyBlob([]byte("data"), nil),
	} {
		if !errors.Is(err, ErrWrongKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (PublicKey{}).VerifyBlob([]byte("data"), sig); !errors.Is(err, ErrKeyMissing) {
		t.Errorf("no key: %v", err)
	}
}

// A private key that is gone is not replaced silently.
func TestKeyIsGone(t *testing.T) {
	dir := t.TempDir()
	p := Passwords{Given: "test"}
	before, err := EnsureKey(t.Context(), dir, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, PrivateFile)); err != nil {
		t.Fatal(err)
	}
	_, err = EnsureKey(t.Context(), dir, p)
	if !errors.Is(err, ErrKeyMissing) || !strings.Contains(err.Error(), filepath.Join(dir, PrivateFile)) || !strings.Contains(err.Error(), "restore it from a backup; or remove cosign.pub") {
		t.Fatalf("got %v", err)
	}
	if public, err := LoadPublicKey(filepath.Join(dir, PublicFile)); err != nil || public.Fingerprint() != before.Public().Fingerprint() {
		t.Errorf("the public half changed: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, PublicFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := EnsureKey(t.Context(), dir, p); err != nil {
		t.Errorf("after the way that the error names: %v", err)
	}
}

// TestKeyAfterRestart: the keyring forgot the password.
func TestKeyAfterRestart(t *testing.T) {
	dir := t.TempDir()
	ring := &memory{}
	before, err := EnsureKey(t.Context(), dir, Passwords{ring: ring})
	if err != nil {
		t.Fatal(err)
	}
	ring.entries = nil
	if !(Passwords{ring: ring}).Lost(dir) {
		t.Error("not lost")
	}
	after, err := EnsureKey(t.Context(), dir, Passwords{ring: ring})
	if err != nil {
		t.Fatal(err)
	}
	if after.Notice == "" || after.Public().Fingerprint() == before.Public().Fingerprint() {
		t.Errorf("notice %q, key %s", after.Notice, after.Public().Fingerprint())
	}
	if len(after.retired) != 1 || after.retired[0] != before.public.hint() {
		t.Errorf("retired %v", after.retired)
	}
	if (Passwords{ring: ring}).Lost(dir) || (Passwords{ring: ring}).Lost(t.TempDir()) || (Passwords{Given: "x", ring: &memory{}}).Lost(dir) {
		t.Error("lost, and it is not")
	}
}

// TestKeyWithoutKeyring: a container whose seccomp profile forbids the system calls.
func TestKeyWithoutKeyring(t *testing.T) {
	dir := t.TempDir()
	p := Passwords{ring: &memory{broken: errors.New("operation not permitted")}}
	made, err := EnsureKey(t.Context(), dir, p)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(made.Warning, "operation not permitted") || !strings.Contains(made.Warning, passwordFile) {
		t.Errorf("warning %q", made.Warning)
	}
	info, err := os.Stat(filepath.Join(dir, passwordFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
	again, err := EnsureKey(t.Context(), dir, p)
	if err != nil || again.Notice != "" {
		t.Fatal(again, err)
	}
	if _, err := again.SignBlob(nil); err != nil {
		t.Error(err)
	}
	// The keyring works again: the key stays what it is.
	if p.ring = (&memory{}); p.Lost(dir) {
		t.Error("lost")
	}
}

func TestKeyRefusals(t *testing.T) {
	p := Passwords{Given: "right"}
	put := func(name, text string, mode os.FileMode) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			file := filepath.Join(dir, name)
			if err := errors.Join(os.RemoveAll(file), os.WriteFile(file, []byte(text), mode), os.Chmod(file, mode)); err != nil {
				t.Fatal(err)
			}
		}
	}
	block := func(kind, json string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte(json)}))
	}
	const good = `"cipher":{"name":"nacl/secretbox","nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},"ciphertext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}`
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		with  Passwords
		kind  error
		says  string
	}{
		{"wrong password", func(*testing.T, string) {}, Passwords{Given: "wrong"}, ErrPassword, "ORRERY_KEY_PASSWORD"},
		{"empty", put(PrivateFile, "", 0o600), p, ErrKeyCorrupt, "no PEM block"},
		{"not encrypted", put(PrivateFile, block("EC PRIVATE KEY", "x"), 0o600), p, ErrKeyCorrupt, "EC PRIVATE KEY"},
		{"no JSON", put(PrivateFile, block(pemType, "x"), 0o600), p, ErrKeyCorrupt, "inside the PEM block"},
		{"another cipher", put(PrivateFile, block(pemType, `{"kdf":{"name":"scrypt"},"cipher":{"name":"rot13"}}`), 0o600), p, ErrKeyCorrupt, "rot13"},
		{"all the memory there is", put(PrivateFile, block(pemType, `{"kdf":{"name":"scrypt","params":{"N":1073741824,"r":8,"p":1},"salt":"AA=="},`+good), 0o600), p, ErrKeyCorrupt, "N=1073741824"},
		{"short nonce", put(PrivateFile, block(pemType, `{"kdf":{"name":"scrypt","params":{"N":32768,"r":8,"p":1},"salt":"AA=="},"cipher":{"name":"nacl/secretbox","nonce":"AA=="},"ciphertext":"AA=="}`), 0o600), p, ErrKeyCorrupt, "too short"},
		{"damaged", put(PrivateFile, block(oldPEMType, `{"kdf":{"name":"scrypt","params":{"N":32768,"r":8,"p":1},"salt":"AA=="},`+good), 0o600), p, ErrPassword, "does not open"},
		{"others may read it", func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, PrivateFile), 0o644); err != nil {
				t.Fatal(err)
			}
		}, p, ErrKeyExposed, "mode is 0644"},
		{"a link", func(t *testing.T, dir string) {
			file := filepath.Join(dir, PrivateFile)
			if err := errors.Join(os.Rename(file, file+"2"), os.Symlink(file+"2", file)); err != nil {
				t.Fatal(err)
			}
		}, p, ErrKeyCorrupt, "no regular file"},
		{"endless", put(PrivateFile, strings.Repeat("x", maxKeyFile+1), 0o600), p, ErrKeyCorrupt, "less than"},
		{"public half damaged", put(PublicFile, "x", 0o644), p, ErrKeyCorrupt, "written again"},
		{"halves of two pairs", func(t *testing.T, dir string) {
			other, _ := testKey(t)
			put(PublicFile, string(other.Public().PEM()), 0o644)(t, dir)
		}, p, ErrKeyCorrupt, "no pair"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := EnsureKey(t.Context(), dir, p); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, dir)
			// What can be told from the files is told without opening the key.
			if err, told := CheckKey(dir), !errors.Is(c.kind, ErrPassword) && c.name != "halves of two pairs"; told != errors.Is(err, c.kind) {
				t.Errorf("looked at: %v", err)
			}
			k, err := EnsureKey(t.Context(), dir, c.with)
			if err == nil {
				_, err = k.SignBlob(nil)
			}
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "remove") && !strings.Contains(err.Error(), "chmod") {
				t.Errorf("got %v; want %q, of the kind %v, and what to do", err, c.says, c.kind)
			}
		})
	}
}

func TestNoKeyIsFine(t *testing.T) {
	if err := CheckKey(t.TempDir()); err != nil {
		t.Error(err)
	}
}

func TestMissingPublicHalfIsWrittenAgain(t *testing.T) {
	k, dir := testKey(t)
	if err := os.Remove(filepath.Join(dir, PublicFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadPublicKey(filepath.Join(dir, PublicFile)); !errors.Is(err, ErrKeyMissing) {
		t.Error(err)
	}
	again, err := EnsureKey(t.Context(), dir, Passwords{Given: "test"})
	if err != nil || again.Public().Fingerprint() != k.Public().Fingerprint() {
		t.Fatal(err)
	}
	if _, err := LoadPublicKey(filepath.Join(dir, PublicFile)); err != nil {
		t.Error(err)
	}
}

func TestPublicKeyRefusals(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&p384.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	k, _ := testKey(t)
	for name, c := range map[string]struct{ text, says string }{
		"empty":         {"", "no PEM block"},
		"certificate":   {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), "CERTIFICATE"},
		"private":       {string(pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})), "must not be handed out"},
		"another curve": {string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "P-256"},
		"damaged":       {string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der[:20]})), "key corrupt"},
		"two":           {string(k.Public().PEM()) + string(k.Public().PEM()), "more than one"},
	} {
		if _, err := ParsePublicKey([]byte(c.text)); !errors.Is(err, ErrKeyCorrupt) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	if _, err := LoadPublicKey(t.TempDir()); !errors.Is(err, ErrKeyCorrupt) {
		t.Errorf("a folder: %v", err)
	}
}

// fakeSOPS puts a program on PATH that stands in for sops.
func fakeSOPS(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if script != "" {
		if err := os.WriteFile(filepath.Join(dir, "sops"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func TestPasswordFromSOPS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secrets.yaml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := Passwords{SOPS: file, Value: `the "key"`}
	fakeSOPS(t, `[ "$1 $2 $3 $4" = 'decrypt --extract ["the \"key\""] `+file+`' ] || { echo "asked for $*" >&2; exit 3; }
echo secret`)
	dir := t.TempDir()
	if _, err := EnsureKey(t.Context(), dir, p); err != nil {
		t.Fatal(err)
	}
	k, err := EnsureKey(t.Context(), dir, Passwords{Given: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.SignBlob(nil); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct{ script, file, says string }{
		"not installed": {"", file, "not on PATH"},
		"fails":         {"echo no age key >&2; exit 128", file, "no age key"},
		"empty":         {"echo", file, "is empty"},
		"no file":       {"echo secret", file + "2", "no such file"},
	} {
		fakeSOPS(t, c.script)
		_, err := EnsureKey(t.Context(), t.TempDir(), Passwords{SOPS: c.file, Value: "k"})
		if !errors.Is(err, ErrPassword) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzKeyFiles(f *testing.F) {
	k, dir := testKey(f)
	private, err := os.ReadFile(filepath.Join(dir, PrivateFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(private)
	f.Add(k.Public().PEM())
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := parseSealed(data); err == nil && (len(s.Cipher.Nonce) != 24 || !s.KDF.Params.allowed()) {
			t.Fatalf("accepted: %+v", s)
		}
		if k, err := ParsePublicKey(data); err == nil && k.Fingerprint() == "" {
			t.Fatal("a key without a name")
		}
	})
}
