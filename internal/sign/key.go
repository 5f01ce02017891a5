package sign

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/orrery-dev/orrery/internal/atomicfile"
)

// Files of a key pair, in the folder that [EnsureKey] is given.
const (
	PrivateFile = "cosign.key"
	PublicFile  = "cosign.pub"
)

// Key is a key pair. It is opened when it first signs: deriving the key from the password
// takes a tenth of a second, and most commands sign nothing.
type Key struct {
	// Notice says what a person should know about how the key came to be: that it is new
	// because the password of the old one is lost. Empty for a key that was there.
	Notice string
	// Warning says that the key is kept less safely than intended.
	Warning string

	public  PublicKey
	retired []string // hints of the keys that were here before
	open    func() (*ecdsa.PrivateKey, error)
}

// EnsureKey reads the key pair in dir, or makes one: ECDSA on P-256, the private key
// encrypted as cosign does it. dir must exist. A key whose password was a random one and
// is lost, after a restart of the machine, is replaced; what it signed has to be signed
// again. Any other trouble is an error that wraps one of the kinds: a private key that is gone
// while its public half is there too, [ErrKeyMissing].
func EnsureKey(ctx context.Context, dir string, p Passwords) (*Key, error) {
	file := filepath.Join(dir, PrivateFile)
	notice := ""
	s, err := readPrivate(file)
	switch {
	case err == nil && p.Lost(dir):
		notice = "the password of the signing key is no longer in the kernel's keyring," +
			" as after a restart of the machine: a new key is made, and all images are signed again"
	case err == nil:
		return existing(ctx, dir, s, p)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case there(filepath.Join(dir, PublicFile)):
		return nil, fmt.Errorf("signing key %s: %w", file, mistake(ErrKeyMissing,
			"it is gone, and %s beside it says that there was one: what it signed counts no more,"+
				" nor what others check with its public half\n  restore it from a backup;"+
				" or remove %[1]s too to have a new one made, and 'orrery up' signs the images again", PublicFile))
	}
	k, err := makeKey(ctx, dir, p)
	if err != nil {
		return nil, fmt.Errorf("make a signing key in %s: %w", dir, err)
	}
	k.Notice = notice
	return k, nil
}

func there(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

// Lost reports whether there is a key in dir that nobody can open any more: its password
// was a random one, and is gone.
func (p Passwords) Lost(dir string) bool {
	if !p.random() {
		return false
	}
	if _, err := os.Stat(filepath.Join(dir, PrivateFile)); err != nil {
		return false
	}
	_, err := randomPassword(p.keyring(), dir)
	return errors.Is(err, errNoEntry)
}

// CheckKey looks at the files of the key pair in dir, without opening the key: it may not be
// readable by others, and must be a key. No key at all is fine.
func CheckKey(dir string) error {
	if _, err := readPrivate(filepath.Join(dir, PrivateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := LoadPublicKey(filepath.Join(dir, PublicFile)); err != nil && !errors.Is(err, ErrKeyMissing) {
		return fmt.Errorf("%w\n  remove it: it is written again from %s", err, PrivateFile)
	}
	return nil
}

// readPrivate reads the private key's file, and refuses one that others may read.
func readPrivate(file string) (*sealed, error) {
	fail := func(err error) (*sealed, error) {
		return nil, fmt.Errorf("signing key %s: %w\n  to have a new one made, remove it and %s beside it;"+
			" the next 'orrery up' signs the images again", file, err, PublicFile)
	}
	info, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return fail(err)
	}
	if !info.Mode().IsRegular() {
		return fail(mistake(ErrKeyCorrupt, "it is no regular file"))
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fail(mistake(ErrKeyExposed, "its mode is %04o, so that others may have read it:"+
			" 'chmod 600' if you are sure that nobody did", mode))
	}
	data, err := readKeyFile(file)
	if err != nil {
		return fail(err)
	}
	s, err := parseSealed(data)
	if err != nil {
		return fail(err)
	}
	return s, nil
}

func existing(ctx context.Context, dir string, s *sealed, p Passwords) (*Key, error) {
	public, err := LoadPublicKey(filepath.Join(dir, PublicFile))
	if errors.Is(err, ErrKeyMissing) { // the private half has it
		return reunite(ctx, dir, s, p)
	}
	if err != nil {
		return nil, fmt.Errorf("%w\n  remove it: it is written again from %s", err, PrivateFile)
	}
	return &Key{public: public, retired: retired(dir), open: sync.OnceValues(func() (*ecdsa.PrivateKey, error) {
		private, err := unseal(context.WithoutCancel(ctx), dir, s, p)
		if err == nil && !private.PublicKey.Equal(public.key) {
			err = fmt.Errorf("signing key %s: %w", dir, mistake(ErrKeyCorrupt,
				"%s and %s are no pair; remove %[2]s to have it written again", PrivateFile, PublicFile))
		}
		return private, err
	})}, nil
}

// reunite writes the public half again.
func reunite(ctx context.Context, dir string, s *sealed, p Passwords) (*Key, error) {
	private, err := unseal(ctx, dir, s, p)
	if err != nil {
		return nil, err
	}
	return keep(dir, private)
}

func unseal(ctx context.Context, dir string, s *sealed, p Passwords) (*ecdsa.PrivateKey, error) {
	file := filepath.Join(dir, PrivateFile)
	password, err := p.existing(ctx, dir)
	if err != nil {
		return nil, err
	}
	der, err := s.open(password)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w: %w\n  give the password that it was made with (%s);"+
			" or remove it and %s beside it to have a new key made, and 'orrery up' signs the images again",
			file, ErrPassword, err, p.source(), PublicFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", file, mistake(ErrKeyCorrupt, "%w", err))
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, fmt.Errorf("signing key %s: %w", file, mistake(ErrKeyCorrupt, "a key of type %T: only ECDSA on P-256 is supported", parsed))
	}
	return private, nil
}

func (p Passwords) source() string {
	switch {
	case p.Given != "":
		return "this one is from ORRERY_KEY_PASSWORD"
	case p.SOPS != "":
		return "this one is from " + p.SOPS
	}
	return "this one is from the kernel's keyring"
}

func makeKey(ctx context.Context, dir string, p Passwords) (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	password, warning, err := p.fresh(ctx, dir)
	if err != nil {
		return nil, err
	}
	file, err := seal(der, password)
	if err != nil {
		return nil, err
	}
	if err := retire(dir); err != nil {
		return nil, err
	}
	// The public half last, and none of another key's in between.
	if err := os.Remove(filepath.Join(dir, PublicFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := atomicfile.Write(filepath.Join(dir, PrivateFile), file, 0o600); err != nil {
		return nil, err
	}
	k, err := keep(dir, private)
	if err != nil {
		return nil, err
	}
	k.Warning = warning
	return k, nil
}

// keep writes the public half of a key that is open.
func keep(dir string, private *ecdsa.PrivateKey) (*Key, error) {
	public, err := publicKey(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(filepath.Join(dir, PublicFile), public.PEM(), 0o644); err != nil {
		return nil, err
	}
	return &Key{public: public, retired: retired(dir), open: func() (*ecdsa.PrivateKey, error) { return private, nil }}, nil
}

// retiredFile lists keys that are no more, so that what they signed can be taken away.
const retiredFile = "retired"

func retired(dir string) []string {
	data, _ := os.ReadFile(filepath.Join(dir, retiredFile)) // it only tidies up
	return strings.Fields(string(data))
}

// retire notes the key that is about to be replaced.
func retire(dir string) error {
	old, err := LoadPublicKey(filepath.Join(dir, PublicFile))
	if err != nil { // none, or nobody can say which
		return nil
	}
	all := append(retired(dir), old.hint())
	return atomicfile.Write(filepath.Join(dir, retiredFile), []byte(strings.Join(all[max(0, len(all)-64):], "\n")+"\n"), 0o600)
}

// Forget removes what is kept of dir's key outside of dir: the password in the kernel's
// keyring. Where there is no keyring there is nothing to remove.
func Forget(dir string) error {
	if err := (kernelKeyring{}).remove(entryName(dir)); err != nil && Remembered(dir) {
		return err
	}
	return nil
}

// Remembered reports whether the kernel's keyring has a password for dir's key.
func Remembered(dir string) bool {
	_, err := (kernelKeyring{}).get(entryName(dir))
	return err == nil
}

// Public is the half that verifies.
func (k *Key) Public() PublicKey { return k.public }

// SignBlob signs data with ECDSA over its SHA-256; the signature is ASN.1 DER.
func (k *Key) SignBlob(data []byte) ([]byte, error) {
	private, err := k.open()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	return ecdsa.SignASN1(rand.Reader, private, sum[:])
}
