package supply

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/sbom"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
)

// Keys are those that an environment's programs and images are signed with and trusted by.
type Keys struct {
	// Dir is the folder of the environment's own key pair; it may not exist yet.
	Dir string
	// Images is the policy of orrery.yaml: further keys, builders, where the password is.
	Images spec.Images
}

// passwordVariable gives the password of signing keys.
const passwordVariable = "ORRERY_KEY_PASSWORD"

// passwordsOf says where the password of a signing key comes from.
func passwordsOf(images spec.Images) sign.Passwords {
	p := sign.Passwords{Given: os.Getenv(passwordVariable)}
	if from := images.Password; from != nil {
		p.SOPS, p.Value = from.SOPS, from.Key
	}
	return p
}

// Ensure is the environment's own key, made when there is none. Whoever calls it notes the
// folder and the password in the kernel's keyring as effects first.
func (k Keys) Ensure(ctx context.Context) (*sign.Key, error) {
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return nil, err
	}
	return sign.EnsureKey(ctx, k.Dir, passwordsOf(k.Images))
}

// Lost reports whether the environment's own key is there and can no longer be opened, as
// after a restart of the machine.
func (k Keys) Lost() bool { return passwordsOf(k.Images).Lost(k.Dir) }

// Trusted lists the keys whose signatures count. A key of the environment that nobody can
// sign with any more does not: what it signed is to be signed again.
func (k Keys) Trusted() ([]sign.PublicKey, error) {
	if err := sign.CheckKey(k.Dir); err != nil {
		return nil, err
	}
	var keys []sign.PublicKey
	own, err := sign.LoadPublicKey(filepath.Join(k.Dir, sign.PublicFile))
	switch {
	case err == nil && !k.Lost():
		keys = append(keys, own)
	case err != nil && !errors.Is(err, sign.ErrKeyMissing):
		return nil, err
	}
	for _, file := range k.Images.TrustedKeys {
		key, err := sign.LoadPublicKey(file)
		if err != nil {
			return nil, failure.Usage{Err: fmt.Errorf("images.trustedKeys: %w", err)}
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Policy is what every image and program of the environment has to fulfil.
func (k Keys) Policy(locked *lock.Platform) (sign.Policy, error) {
	keys, err := k.Trusted()
	return sign.Policy{Keys: keys, Builders: k.builders(), Locked: locked}, err
}

// PolicyFor is policy as it is for one image: what is not built by the catalogue's recipes
// has no provenance of ours, and its digest stands in the catalogue, not in the lock.
func PolicyFor(policy sign.Policy, img catalog.Image) sign.Policy {
	policy.Foreign = img.Registry != ""
	return policy
}

// builders are those whose provenance counts.
func (k Keys) builders() []string {
	if len(k.Images.Builders) > 0 {
		return k.Images.Builders
	}
	return []string{sbom.LocalBuilder}
}

// refuseBuilder is the error when what is compiled here would not be let run.
func (k Keys) refuseBuilder() error {
	if k.Images.Verify == spec.VerifyWarn || slices.Contains(k.builders(), sbom.LocalBuilder) {
		return nil
	}
	return fmt.Errorf("images.builders does not name this machine, %s, and so nothing that is compiled here may run", sbom.LocalBuilder)
}
