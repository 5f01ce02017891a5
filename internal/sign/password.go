package sign

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/proc"
)

// Passwords says where the password of the private key comes from: the first of its
// fields that is set, else the kernel's keyring, where a random one is kept.
type Passwords struct {
	// Given is the password itself (ORRERY_KEY_PASSWORD).
	Given string
	// SOPS names an encrypted file, and Value what to take of it, which the sops program
	// on PATH decrypts.
	SOPS, Value string

	ring keyring // tests replace it; nil is the kernel's
}

func (p Passwords) keyring() keyring {
	if p.ring != nil {
		return p.ring
	}
	return kernelKeyring{}
}

// random: nobody chose the password, and nobody can type it.
func (p Passwords) random() bool { return p.Given == "" && p.SOPS == "" }

// entryName is what the keyring calls the password of the key in dir.
func entryName(dir string) string { return "orrery:signing:" + filepath.Clean(dir) }

// passwordFile holds the password where there is no keyring. Who can read it can read the
// key beside it; it is no worse than a key without a password.
const passwordFile = "cosign.password"

// existing is the password of the key that is in dir. errNoEntry: it was a random one, and
// is lost.
func (p Passwords) existing(ctx context.Context, dir string) ([]byte, error) {
	switch {
	case p.Given != "":
		return []byte(p.Given), nil
	case p.SOPS != "":
		return p.decrypt(ctx)
	}
	return randomPassword(p.keyring(), dir)
}

// randomPassword is one that nobody gave.
func randomPassword(ring keyring, dir string) ([]byte, error) {
	if secret, err := ring.get(entryName(dir)); err == nil {
		return secret, nil
	}
	if secret, err := os.ReadFile(filepath.Join(dir, passwordFile)); err == nil {
		return bytes.TrimSpace(secret), nil
	}
	return nil, errNoEntry
}

// fresh is the password for a key that is about to be made. warning: it had to be written
// to a file.
func (p Passwords) fresh(ctx context.Context, dir string) (password []byte, warning string, err error) {
	if !p.random() {
		password, err = p.existing(ctx, dir)
		return password, "", err
	}
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // which never fails
	password = []byte(hex.EncodeToString(raw))
	ringErr := p.keyring().set(entryName(dir), password)
	file := filepath.Join(dir, passwordFile)
	if ringErr == nil {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, "", err
		}
		return password, "", nil
	}
	if err := atomicfile.Write(file, append(password, '\n'), 0o600); err != nil {
		return nil, "", err
	}
	return password, fmt.Sprintf("the kernel's keyring cannot be used here (%v):"+
		" the password of the signing key stands in %s, readable only by its owner; "+
		"ORRERY_KEY_PASSWORD or images.password keep it elsewhere", ringErr, file), nil
}

// decrypt runs sops.
func (p Passwords) decrypt(ctx context.Context) ([]byte, error) {
	fail := func(format string, a ...any) ([]byte, error) {
		return nil, fmt.Errorf("%w of the signing key from %s (images.password): %w", ErrPassword, p.SOPS, fmt.Errorf(format, a...))
	}
	if _, err := os.Stat(p.SOPS); err != nil {
		return fail("%w", err)
	}
	index, err := json.Marshal([]string{p.Value})
	if err != nil {
		return fail("%w", err)
	}
	var out bytes.Buffer
	err = proc.Run(ctx, &proc.Cmd{
		Path: "sops", Args: []string{"decrypt", "--extract", string(index), p.SOPS}, Stdout: &out,
	})
	if errors.Is(err, exec.ErrNotFound) {
		return fail("the program sops is not on PATH: install it (https://getsops.io), or give the password in ORRERY_KEY_PASSWORD")
	}
	if err != nil {
		return fail("%w", err)
	}
	password := bytes.TrimRight(out.Bytes(), "\r\n")
	if len(password) == 0 {
		return fail("the value %q is empty", p.Value)
	}
	return password, nil
}
