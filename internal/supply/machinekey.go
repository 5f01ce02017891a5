package supply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Machine is what this machine itself stands for: the key that it signs bundles with, and the
// bundles that it trusts. It is the folder of both; no environment has a name that begins with
// a dot.
type Machine string

// ThisMachine is that below the folder of all environments.
func ThisMachine(stateRoot string) Machine { return Machine(filepath.Join(stateRoot, ".signing")) }

// Key is the key that signs bundles: the given one, or this machine's, which is made when
// there is none. Its password is that of environments' keys: with one of the person's own
// (ORRERY_KEY_PASSWORD, images.password) the key stays the same over restarts.
func (m Machine) Key(ctx context.Context, file string, images spec.Images) (*sign.Key, error) {
	dir, passwords := string(m), passwordsOf(images)
	if file != "" {
		if filepath.Base(file) != sign.PrivateFile {
			return nil, failure.Usagef("--key %s: name the private half of a key pair,"+
				" %s as 'cosign generate-key-pair' makes it", file, sign.PrivateFile)
		}
		if _, err := os.Stat(file); err != nil {
			return nil, failure.Usage{Err: err}
		}
		dir, passwords = filepath.Dir(file), sign.Passwords{Given: os.Getenv(passwordVariable)}
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make a folder for the key of this machine: %w", err)
	}
	return sign.EnsureKey(ctx, dir, passwords)
}

// trustedFile lists the digests of bundles that were made or trusted on this machine, one a
// line. A digest stands for every byte of a bundle, so it outlives keys that are lost or were
// trusted once: nobody can make another bundle of that digest.
func (m Machine) trustedFile() string { return filepath.Join(string(m), "trusted-bundles") }

// trustedBundles reads the list, and refuses one that others can write to.
func (m Machine) trustedBundles() ([]string, error) {
	info, err := os.Lstat(m.trustedFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("trusted bundles: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s (mode %v) can be written to by others, who may have named bundles of theirs:"+
			" remove it, and trust bundles again by their keys", m.trustedFile(), info.Mode())
	}
	data, err := os.ReadFile(m.trustedFile())
	if err != nil {
		return nil, fmt.Errorf("trusted bundles: %w", err)
	}
	return strings.Fields(string(data)), nil
}

// Trust has a bundle stay trusted, whatever becomes of the key that it was signed with.
func (m Machine) Trust(ctx context.Context, digest string) error {
	return m.changeTrusted(ctx, func(all []string) []string {
		if slices.Contains(all, digest) {
			return all
		}
		return append(all, digest)
	})
}

// Distrust takes that back, and says which of the digests it knew.
func (m Machine) Distrust(ctx context.Context, digests []string) (gone []string, err error) {
	err = m.changeTrusted(ctx, func(all []string) []string {
		return slices.DeleteFunc(all, func(d string) bool {
			if slices.Contains(digests, d) {
				gone = append(gone, d)
				return true
			}
			return false
		})
	})
	return gone, err
}

func (m Machine) changeTrusted(ctx context.Context, change func([]string) []string) error {
	if err := os.MkdirAll(string(m), 0o700); err != nil {
		return fmt.Errorf("trusted bundles: %w", err)
	}
	held, err := filelock.Wait(ctx, m.trustedFile()+".lock", filelock.Exclusive, nil)
	if err != nil {
		return fmt.Errorf("trusted bundles: %w", err)
	}
	defer held.Close()
	before, err := m.trustedBundles()
	if err != nil {
		return err
	}
	after := change(slices.Clone(before))
	if slices.Equal(before, after) {
		return nil
	}
	return atomicfile.Write(m.trustedFile(), []byte(strings.Join(after, "\n")+"\n"), 0o644)
}

// Trusts checks the signature of a bundle, and that it is trusted: made or imported here
// before, to the byte, or by a key that is this machine's own, one of images.trustedKeys or the
// one in keyFile. It is false for one that is only used because of images.verify.
func (m Machine) Trusts(b *bundle.File, file, keyFile string, policy spec.Images, sink ui.Sink) (bool, error) {
	signer, err := BundleSigner(b)
	if err != nil {
		return false, failure.Refused{Err: err}
	}
	known, err := m.trustedBundles()
	if err != nil {
		return false, failure.Refused{Err: err}
	}
	if slices.Contains(known, b.Digest()) {
		return true, nil
	}
	var trusted []string
	files := policy.TrustedKeys
	if keyFile != "" {
		files = append(slices.Clone(files), keyFile)
	}
	own := filepath.Join(string(m), sign.PublicFile)
	if _, err := os.Stat(own); err == nil {
		files = append(slices.Clone(files), own)
	}
	for _, f := range files {
		k, err := sign.LoadPublicKey(f)
		if err != nil {
			return false, failure.Usage{Err: err}
		}
		trusted = append(trusted, k.Fingerprint())
	}
	if slices.Contains(trusted, signer.Fingerprint()) {
		return true, nil
	}
	if policy.Verify == spec.VerifyWarn {
		sink.Emit(ui.Event{Type: ui.TypeWarning, Phase: plan.PhaseBuild, Message: fmt.Sprintf(
			"images.verify is warn, so %s is used, although its key %s is not trusted", file, signer.Fingerprint())})
		return false, nil
	}
	return false, failure.Refused{Err: fmt.Errorf(`%s is signed by %s, which nobody here trusts
  compare the fingerprint with that of whoever made it ('orrery bundle create' prints it); if it is theirs:
    orrery bundle inspect %[1]s -o key > bundle.pub
    orrery bundle import %[1]s --key bundle.pub
  or name the file in images.trustedKeys of orrery.yaml`, file, signer.Fingerprint())}
}

// BundleSigner is the key that signed, whoever's it is.
func BundleSigner(b *bundle.File) (sign.PublicKey, error) {
	signer, err := sign.ParsePublicKey(b.PublicKey())
	if err != nil {
		return signer, fmt.Errorf("the bundle's public key: %w", err)
	}
	return signer, b.Verify(signer.VerifyBlob)
}

// OpenBundle opens a file that a person names as a bundle.
func OpenBundle(file string) (*bundle.File, error) {
	b, err := bundle.Open(file)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, bundle.ErrNotBundle):
		return nil, failure.Usage{Err: err}
	case errors.Is(err, bundle.ErrNewer):
		return nil, failure.Refused{Err: err}
	}
	return b, err
}
