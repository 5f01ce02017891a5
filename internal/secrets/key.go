package secrets

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"filippo.io/age"

	"github.com/orrery-dev/orrery/internal/atomicfile"
)

// Places in a repository.
const (
	Dir        = "infra/secrets"
	KeyFile    = Dir + "/age-key.txt" // ignored by git
	DataFile   = Dir + "/data.yaml"   // manifests of Secrets
	ConfigFile = ".sops.yaml"
)

// Variables that SOPS reads too.
const (
	EnvKey     = "SOPS_AGE_KEY"      // keys themselves
	EnvKeyFile = "SOPS_AGE_KEY_FILE" // a file of keys, in place of [KeyFile]
)

// Keys are the age keys that this machine has for the repository: of SOPS_AGE_KEY,
// SOPS_AGE_KEY_FILE, or infra/secrets/age-key.txt, the first that is there. Without any the
// error wraps [ErrNoKey]. getenv is os.Getenv.
func Keys(root string, getenv func(string) string) (keys []age.Identity, from string, err error) {
	if text := getenv(EnvKey); text != "" {
		keys, err = parseKeys([]byte(text))
		if err != nil {
			return nil, EnvKey, fmt.Errorf("%s: %w", EnvKey, err)
		}
		return keys, EnvKey, nil
	}
	from = filepath.Join(root, filepath.FromSlash(KeyFile))
	if file := getenv(EnvKeyFile); file != "" {
		from = file
	}
	data, err := readKey(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, from, fmt.Errorf("%w: no file %s, and neither %s nor %s is set; 'orrery secrets init' makes one,"+
			" or somebody of the team adds yours", ErrNoKey, from, EnvKey, EnvKeyFile)
	}
	if err != nil {
		return nil, from, err
	}
	if keys, err = parseKeys(data); err != nil {
		return nil, from, fmt.Errorf("%s: %w", from, err)
	}
	return keys, from, nil
}

// readKey reads a file that only its owner may be able to read.
func readKey(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link; a key is a file of its own (%s=FILE names another)", path, EnvKeyFile)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch st, ok := info.Sys().(*syscall.Stat_t); {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 %[1]s; who could read it meanwhile may have it,"+
			" so think of 'orrery secrets rotate'", path, info.Mode().Perm())
	case ok && st.Uid != uint32(os.Geteuid()) && os.Geteuid() != 0:
		return nil, fmt.Errorf("%s belongs to another user (%d)", path, st.Uid)
	case info.Size() > 1<<20:
		return nil, fmt.Errorf("%s has %d bytes; keys are short", path, info.Size())
	}
	return read(path)
}

// parseKeys reads secret keys of age, a line each; lines with "#" are comments.
func parseKeys(data []byte) ([]age.Identity, error) {
	if bytes.Contains(data, []byte("-----BEGIN AGE ENCRYPTED FILE-----")) {
		return nil, fmt.Errorf("it is encrypted with a passphrase: age -d gives the key for %s", EnvKey)
	}
	keys, err := age.ParseIdentities(bytes.NewReader(data))
	if err != nil {
		// What the library says may quote the line.
		return nil, errors.New("no secret key of age is in it (AGE-SECRET-KEY-1…), or a line is something else")
	}
	return keys, nil
}

// Recipients are the public halves of keys.
func Recipients(keys []age.Identity) []string {
	var all []string
	for _, k := range keys {
		if x, ok := k.(*age.X25519Identity); ok {
			all = append(all, x.Recipient().String())
		}
	}
	return all
}

// NewKey makes a key file for the repository, which is never overwritten: made is false when there
// was one. It returns the recipient that others encrypt for.
func NewKey(root string) (recipient, path string, made bool, err error) {
	path = filepath.Join(root, filepath.FromSlash(KeyFile))
	data, err := readKey(path)
	if err == nil {
		keys, err := parseKeys(data)
		if err != nil {
			return "", path, false, fmt.Errorf("%s: %w; it is left as it is", path, err)
		}
		return strings.Join(Recipients(keys), ","), path, false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", path, false, err
	}
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return "", path, false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", path, false, err
	}
	text := fmt.Sprintf("# public key: %s\n%s\n", key.Recipient(), key)
	// Whoever makes the file first has it.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", path, false, err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return "", path, false, errors.Join(err, os.Remove(path))
	}
	return key.Recipient().String(), path, true, nil
}

// write replaces a file that is in the repository.
func write(path string, data []byte) error { return atomicfile.Write(path, data, 0o644) }
