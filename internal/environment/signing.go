package environment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

// keyringEffect is the journal's kind for the password of the signing key in the kernel's
// keyring; the ID is the folder of the key.
const keyringEffect = "keyring"

// ownKey is made or read once by the steps of a run.
type ownKey struct {
	once sync.Once
	key  *sign.Key
	err  error
}

// SigningKey is the environment's key, made when there is none.
func (p *Platform) SigningKey(ctx context.Context) (*sign.Key, error) {
	p.key.once.Do(func() {
		if p.key.err = p.journal.Begin(driver.Effect{Kind: keyringEffect, ID: p.Keys.Dir}); p.key.err != nil {
			return
		}
		if p.key.key, p.key.err = p.Keys.Ensure(context.WithoutCancel(ctx)); p.key.err != nil {
			return
		}
		for typ, text := range map[ui.Type]string{ui.TypeNotice: p.key.key.Notice, ui.TypeWarning: p.key.key.Warning} {
			if text != "" {
				p.sink.Emit(ui.Event{Type: typ, Phase: plan.PhaseBuild, Message: text})
			}
		}
	})
	return p.key.key, p.key.err
}

// admit signs an image that was built here, and verifies what the mirror then has. No
// image is deployed that does not get past here.
func (p *Platform) admit(ctx context.Context, to mirror.Mirror, img catalog.Image, built image.Built) error {
	_, err := p.Supply.Sign(ctx, to, img, built, func() (*sign.Key, error) { return p.SigningKey(ctx) })
	if err == nil || errors.Is(err, sign.ErrSwapped) { // of which verification tells more
		var policy sign.Policy
		if policy, err = p.Keys.Policy(p.Supply.Locked); err == nil {
			_, err = sign.Verify(ctx, to, built.Name, built.Digest, supply.PolicyFor(policy, img))
		}
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	if p.Spec.Images.Verify == spec.VerifyWarn {
		p.warnStep(plan.KindImage.ID(img.Name), plan.PhaseBuild, usedNevertheless, err)
		return nil
	}
	return err
}

// Resign makes the documents of an image that was built here anew, signs them, and replaces
// what is attached in the mirror. made is called between the two.
func (p *Platform) Resign(ctx context.Context, img catalog.Image, made func()) (digest string, err error) {
	built, ok, err := p.Supply.CachedImage(ctx, img)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", fmt.Errorf("image %s is not built here: 'orrery images build %s'", img.Name, img.Name)
	}
	mirror, err := p.Mirror()
	if err != nil {
		return "", err
	}
	key, err := p.SigningKey(ctx)
	if err != nil {
		return "", err
	}
	docs, err := p.Supply.MakeDocuments(ctx, img)
	if err != nil {
		return "", err
	}
	made()
	return built.Digest, sign.Renew(ctx, mirror, img.Name, built.Digest, key, docs)
}

// registry is what images are pushed to and pulled from: the environment's own, or
// images.registry.
func (p *Platform) registry() (sign.Registry, error) {
	if p.Kind.Mirror {
		return p.Mirror()
	}
	return p.Supply.Published()
}

// VerifyImages reads images back from where nodes pull them, and holds them to a policy. errs
// has what failed.
func (p *Platform) VerifyImages(ctx context.Context, names []string, policy sign.Policy) (reports []sign.Report, errs []error, err error) {
	registry, err := p.registry()
	if err != nil {
		return nil, nil, err
	}
	errs, reports = make([]error, len(names)), make([]sign.Report, len(names))
	var g errgroup.Group
	g.SetLimit(4)
	for i, name := range names {
		g.Go(func() error {
			var digest string
			if digest, errs[i] = p.digest(ctx, name); errs[i] != nil {
				reports[i] = sign.Report{Image: name, Checks: []sign.Result{{Check: sign.CheckContent, State: sign.Failed, Detail: errs[i].Error()}}}
				return nil
			}
			reports[i], errs[i] = sign.Verify(ctx, registry, name, digest, supply.PolicyFor(policy, p.Parts.Images[name]))
			return nil
		})
	}
	err = g.Wait()
	return reports, slices.DeleteFunc(errs, func(err error) bool { return err == nil }), err
}

// digest is that of the image as it is made here or locked, which is the one that pods
// name.
func (p *Platform) digest(ctx context.Context, name string) (string, error) {
	built, ok, err := p.Supply.CachedImage(ctx, p.Parts.Images[name])
	if err != nil {
		return "", err
	}
	locked := ""
	if p.Supply.Locked != nil {
		locked = p.Supply.Locked.Images[name].Digest
	}
	if digest := cmp.Or(built.Digest, p.Parts.Images[name].RegistryDigest(), locked); ok || digest != "" {
		return digest, nil
	}
	return "", fmt.Errorf("image %s is neither built here nor locked, so nobody knows its digest: 'orrery up' builds it", name)
}

// Lacking reports whether all components that have an image were left out.
func (p *Platform) Lacking(name string) bool {
	of := slices.DeleteFunc(slices.Clone(p.Components), func(c catalog.Component) bool {
		return !slices.ContainsFunc(c.Images, func(i catalog.Image) bool { return i.Name == name })
	})
	return len(of) > 0 && !slices.ContainsFunc(of, func(c catalog.Component) bool { return p.LeftOut(c.Name).IsZero() })
}
