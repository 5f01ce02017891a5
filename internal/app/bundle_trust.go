package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// trustedFile lists the digests of bundles that were made or trusted on this machine, one a
// line. A digest stands for every byte of a bundle, so it outlives keys that are lost or were
// trusted once: nobody can make another bundle of that digest.
func trustedFile() string { return filepath.Join(bundleKeyDir(), "trusted-bundles") }

// trustedBundles reads the list, and refuses one that others can write to.
func trustedBundles() ([]string, error) {
	info, err := os.Lstat(trustedFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("trusted bundles: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s (mode %v) can be written to by others, who may have named bundles of theirs: remove it, and trust bundles again by their keys", trustedFile(), info.Mode())
	}
	data, err := os.ReadFile(trustedFile())
	if err != nil {
		return nil, fmt.Errorf("trusted bundles: %w", err)
	}
	return strings.Fields(string(data)), nil
}

// noteTrusted has a bundle stay trusted, whatever becomes of the key that it was signed with.
func noteTrusted(ctx context.Context, digest string) error {
	return changeTrusted(ctx, func(all []string) []string {
		if slices.Contains(all, digest) {
			return all
		}
		return append(all, digest)
	})
}

func changeTrusted(ctx context.Context, change func([]string) []string) error {
	if err := os.MkdirAll(bundleKeyDir(), 0o700); err != nil {
		return fmt.Errorf("trusted bundles: %w", err)
	}
	held, err := filelock.Wait(ctx, trustedFile()+".lock", filelock.Exclusive, nil)
	if err != nil {
		return fmt.Errorf("trusted bundles: %w", err)
	}
	defer held.Close()
	before, err := trustedBundles()
	if err != nil {
		return err
	}
	after := change(slices.Clone(before))
	if slices.Equal(before, after) {
		return nil
	}
	return atomicfile.Write(trustedFile(), []byte(strings.Join(after, "\n")+"\n"), 0o644)
}

func newBundleDistrust(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "distrust DIGEST|FILE...",
		Short: "Forget that a bundle was trusted on this machine",
		Long: `A bundle that was made here, or imported by a key that was trusted then, stays trusted by its
digest. This takes that back; what its key says counts again. Environments that were made
from it go on, and 'orrery images prune' removes what was imported when none is left.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			digests := slices.Clone(args)
			for i, arg := range args {
				if strings.HasPrefix(arg, "sha256:") {
					continue
				}
				b, err := openBundle(arg)
				if err != nil {
					return err
				}
				digests[i] = b.Digest()
				b.Close()
			}
			var gone []string
			err := changeTrusted(c.Context(), func(all []string) []string {
				return slices.DeleteFunc(all, func(d string) bool {
					if slices.Contains(digests, d) {
						gone = append(gone, d)
						return true
					}
					return false
				})
			})
			if err != nil {
				return err
			}
			for _, d := range digests {
				if !slices.Contains(gone, d) {
					return usagef("bundle %s is not among those that are trusted here by their digest", d)
				}
				fmt.Fprintln(o.out, "no longer trusted by its digest:", d)
			}
			return nil
		},
	}
}

// trustBundle checks the signature, and that it is trusted: made or imported here before, to
// the byte, or by a key that is this machine's own, one of images.trustedKeys or the one in
// keyFile. It is false for one that is only used because of images.verify.
func trustBundle(b *bundle.File, file, keyFile string, policy spec.Images, sink ui.Sink) (bool, error) {
	signer, err := bundleSigner(b)
	if err != nil {
		return false, refusedError{err}
	}
	known, err := trustedBundles()
	if err != nil {
		return false, refusedError{err}
	}
	if slices.Contains(known, b.Digest()) {
		return true, nil
	}
	var trusted []string
	files := policy.TrustedKeys
	if keyFile != "" {
		files = append(slices.Clone(files), keyFile)
	}
	own := filepath.Join(bundleKeyDir(), sign.PublicFile)
	if _, err := os.Stat(own); err == nil {
		files = append(slices.Clone(files), own)
	}
	for _, f := range files {
		k, err := sign.LoadPublicKey(f)
		if err != nil {
			return false, usageError{err}
		}
		trusted = append(trusted, k.Fingerprint())
	}
	if slices.Contains(trusted, signer.Fingerprint()) {
		return true, nil
	}
	if policy.Verify == spec.VerifyWarn {
		sink.Emit(ui.Event{Type: ui.TypeWarning, Phase: "build", Message: fmt.Sprintf("images.verify is warn, so %s is used, although its key %s is not trusted", file, signer.Fingerprint())})
		return false, nil
	}
	return false, refusedError{fmt.Errorf(`%s is signed by %s, which nobody here trusts
  compare the fingerprint with that of whoever made it ('orrery bundle create' prints it); if it is theirs:
    orrery bundle inspect %[1]s -o key > bundle.pub
    orrery bundle import %[1]s --key bundle.pub
  or name the file in images.trustedKeys of orrery.yaml`, file, signer.Fingerprint())}
}

// bundleSigner is the key that signed, whoever's it is.
func bundleSigner(b *bundle.File) (sign.PublicKey, error) {
	signer, err := sign.ParsePublicKey(b.PublicKey())
	if err != nil {
		return signer, fmt.Errorf("the bundle's public key: %w", err)
	}
	return signer, b.Verify(signer.VerifyBlob)
}

// bundleKeyDir holds the key that this machine signs bundles with. No environment has a
// name that begins with a dot.
func bundleKeyDir() string { return filepath.Join(stateRoot(), ".signing") }
