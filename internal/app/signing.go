package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/sbom"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// keyringEffect is the journal's kind for the password of the signing key in the kernel's
// keyring; the ID is the folder of the key.
const keyringEffect = "keyring"

// signing is what the steps of one run share: the key is made or read once.
type signing struct {
	once sync.Once
	key  *sign.Key
	err  error
}

func (s *session) signingDir() string { return filepath.Join(s.stateDir, "signing") }

func (s *session) passwords() sign.Passwords { return passwordsOf(s.spec.Images) }

// passwordsOf says where the password of a signing key comes from.
func passwordsOf(images spec.Images) sign.Passwords {
	p := sign.Passwords{Given: os.Getenv("ORRERY_KEY_PASSWORD")}
	if from := images.Password; from != nil {
		p.SOPS, p.Value = from.SOPS, from.Key
	}
	return p
}

// signingKey is the environment's key, made when there is none.
func (p *platform) signingKey(ctx context.Context) (*sign.Key, error) {
	p.signing.once.Do(func() {
		dir := p.signingDir()
		if p.signing.err = p.journal.Begin(driver.Effect{Kind: keyringEffect, ID: dir}); p.signing.err != nil {
			return
		}
		if p.signing.err = os.MkdirAll(dir, 0o700); p.signing.err != nil {
			return
		}
		p.signing.key, p.signing.err = sign.EnsureKey(context.WithoutCancel(ctx), dir, p.passwords())
		if p.signing.err != nil {
			return
		}
		if n := p.signing.key.Notice; n != "" {
			p.sink.Emit(ui.Event{Type: ui.TypeNotice, Phase: "build", Message: n})
		}
		if w := p.signing.key.Warning; w != "" {
			p.sink.Emit(ui.Event{Type: ui.TypeWarning, Phase: "build", Message: w})
		}
	})
	return p.signing.key, p.signing.err
}

// trusted lists the keys whose signatures count. A key of the environment that nobody can
// sign with any more does not: what it signed is to be signed again.
func (s *session) trusted() ([]sign.PublicKey, error) {
	if err := sign.CheckKey(s.signingDir()); err != nil {
		return nil, err
	}
	var keys []sign.PublicKey
	own, err := sign.LoadPublicKey(filepath.Join(s.signingDir(), sign.PublicFile))
	switch {
	case err == nil && !s.passwords().Lost(s.signingDir()):
		keys = append(keys, own)
	case err != nil && !errors.Is(err, sign.ErrKeyMissing):
		return nil, err
	}
	for _, file := range s.spec.Images.TrustedKeys {
		k, err := sign.LoadPublicKey(file)
		if err != nil {
			return nil, usageError{fmt.Errorf("images.trustedKeys: %w", err)}
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// imagePolicy is what every image of the environment has to fulfil.
func (p *platform) imagePolicy() (sign.Policy, error) {
	keys, err := p.trusted()
	return sign.Policy{Keys: keys, Builders: p.builders(), Locked: p.locked}, err
}

// builders are those whose provenance counts.
func (s *session) builders() []string {
	if len(s.spec.Images.Builders) > 0 {
		return s.spec.Images.Builders
	}
	return []string{sbom.LocalBuilder}
}

// refuseBuilding refuses to compile what images.builders would not let run.
func (p *platform) refuseBuilding(bins []catalog.Binary) error {
	if len(bins) == 0 || p.spec.Images.Verify == spec.VerifyWarn || slices.Contains(p.builders(), sbom.LocalBuilder) {
		return nil
	}
	var names []string
	for _, b := range bins {
		names = append(names, b.Name)
	}
	slices.Sort(names)
	return refusedError{fmt.Errorf("images.builders does not name this machine, %s, and so nothing that is compiled here may run; this would have to be: %s\n  take it from a bundle or a registry (images.sources, images.registry), or add that builder", sbom.LocalBuilder, strings.Join(names, ", "))}
}

// policyFor is policy as it is for one image: what is not built by the catalogue's recipes
// has no provenance of ours, and its digest stands in the catalogue, not in the lock.
func policyFor(policy sign.Policy, img catalog.Image) sign.Policy {
	policy.Foreign = img.Registry != ""
	return policy
}

// signed reports whether the mirror's image is as the policy wants it.
func (p *platform) signed(ctx context.Context, policy sign.Policy, built image.Built) bool {
	_, err := sign.Verify(ctx, p.registry(), built.Name, built.Digest, policy)
	return err == nil
}

// admit signs an image that was built here, and verifies what the mirror then has. No
// image is deployed that does not get past here.
func (p *platform) admit(ctx context.Context, img catalog.Image, built image.Built) error {
	err := p.signImage(ctx, img, built)
	if err == nil || errors.Is(err, sign.ErrSwapped) { // of which verification tells more
		var policy sign.Policy
		if policy, err = p.imagePolicy(); err == nil {
			_, err = sign.Verify(ctx, p.registry(), built.Name, built.Digest, policyFor(policy, img))
		}
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	if p.spec.Images.Verify == spec.VerifyWarn {
		p.sink.Emit(ui.Event{Type: ui.TypeWarning, Step: "image/" + img.Name, Phase: "build", Message: "images.verify is warn, so it is used nevertheless: " + err.Error()})
		return nil
	}
	return err
}

func (p *platform) signImage(ctx context.Context, img catalog.Image, built image.Built) error {
	if img.Registry == "" && p.sources.fetched(built) { // who built it stands for it
		return nil
	}
	var docs sign.Documents
	var err error
	if img.Registry == "" {
		if docs, err = p.documents(ctx, img, built); err != nil {
			return err
		}
	} else if built.Digest != img.RegistryDigest() { // that it is the catalogue's is all we stand for
		return fmt.Errorf("image %s is %s, the catalogue has %s", img.Name, built.Digest, img.RegistryDigest())
	}
	key, err := p.signingKey(ctx)
	if err != nil {
		return err
	}
	return sign.Attach(ctx, p.registry(), built.Name, built.Digest, key, docs)
}

// documents are those of an image that was built here, or that came in a bundle with its
// image. A bill of materials that is kept and is the locked one is not made again.
func (p *platform) documents(ctx context.Context, img catalog.Image, built image.Built) (sign.Documents, error) {
	if docs, err := carriedDocuments(p.sources.supplier, built); err != nil || docs.Provenance != nil || p.builder == nil {
		return docs, err
	}
	w := &workshop{catalog: p.catalog, builder: p.builder}
	locked := lock.Image{}
	if p.locked != nil {
		locked = p.locked.Images[img.Name]
	}
	bill, err := w.keptSBOM(built.Digest, locked.SBOM)
	if err != nil {
		return w.documents(ctx, img)
	}
	provenance, err := w.provenance(ctx, img)
	return sign.Documents{SBOM: bill, Provenance: provenance}, err
}

// documents makes those of an image, whatever was made before.
func (w *workshop) documents(ctx context.Context, img catalog.Image) (docs sign.Documents, err error) {
	if docs.SBOM, err = w.sbom(ctx, img); err == nil {
		docs.Provenance, err = w.provenance(ctx, img)
	}
	return docs, err
}
