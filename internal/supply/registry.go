package supply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// How long registries are asked, all together, whether they have what is wanted. The short
// time is for those that did not answer before: an `up` that has nothing to do stays quick.
const (
	ProbeTime      = 2 * time.Second
	ProbeTimeAgain = 600 * time.Millisecond
)

// pull is how a registry knows img: one that is not built here by where the catalogue says, a
// first-party one in images.registry by the lock's digest; false when none does.
func (s *Supply) pull(img catalog.Image) (image.Pull, bool) {
	p := image.Pull{Name: img.Name, Version: img.Version, Reference: img.Registry}
	if img.Registry != "" {
		return p, !img.Unpinned()
	}
	registry := s.options.Images.Registry
	if registry == "" || s.Locked == nil || s.Locked.Images[img.Name].Digest == "" {
		return p, false
	}
	p.Reference = registry + "/" + img.Name + "@" + s.Locked.Images[img.Name].Digest
	return p, true
}

// holders are the sources that may have img on this machine.
func (s *Supply) holders(img catalog.Image) sources {
	if img.Registry == "" {
		return s.sources
	}
	return s.sources.withoutBuilder()
}

// CachedImage is what Image would return, if it would return at once. No registry is asked.
func (s *Supply) CachedImage(ctx context.Context, img catalog.Image) (image.Built, bool, error) {
	if built, ok, err := s.holders(img).CachedImage(ctx, img); ok || err != nil {
		return built, ok, err
	}
	p, ok := s.pull(img)
	if !ok || s.registries == nil {
		return image.Built{}, false, nil
	}
	built, ok := s.registries.Cached(p)
	return built, ok, nil
}

// Image has img in an OCI layout on this machine: pulled where that was decided and works,
// else built. The error of one that cannot be had wraps image.ErrNotReachable.
func (s *Supply) Image(ctx context.Context, img catalog.Image) (image.Built, error) {
	if built, ok, err := s.CachedImage(ctx, img); ok || err != nil {
		return built, err
	}
	s.mu.Lock()
	pull := s.pulled[img.Name] || img.Registry != ""
	s.mu.Unlock()
	if !pull {
		return s.sources.Image(ctx, img)
	}
	if s.registries == nil {
		return image.Built{}, errNotAllowed(img.Registry)
	}
	p, _ := s.pull(img)
	step := ui.Event{Step: "image/" + img.Name, Phase: plan.PhaseBuild}
	built, err := s.registries.Fetch(ctx, p, func(done, total float64) {
		e := step
		e.Type, e.Message, e.Done, e.Total, e.Unit = ui.TypeProgress, "pulling", done, total, "bytes"
		s.options.Sink.Emit(e)
	})
	if errors.Is(err, image.ErrNotReachable) && img.Registry == "" && s.allows(spec.SourceSource) {
		s.warn(step, "%v; it is built here", err)
		return s.sources.Image(ctx, img)
	}
	return built, err
}

func (s *Supply) allows(source string) bool { return slices.Contains(s.options.Images.Sources, source) }

// errNotAllowed is about an image that only a registry has.
func errNotAllowed(reference string) error {
	return fmt.Errorf("image %s %w: images.sources of orrery.yaml does not name registry", reference, image.ErrNotReachable)
}

// Unreachable is why what needs the named image is left out, with what can be done about it. err
// wraps image.ErrNotReachable.
func Unreachable(name string, err error) plan.Cause {
	kind := plan.CauseUnreachable
	if errors.Is(err, image.ErrNoAnswer) {
		kind = plan.CauseNoAnswer
	}
	return plan.Cause{Kind: kind, Image: name, Root: err.Error() + "; import a bundle or allow a registry"}
}

// Find decides where images that are not on this machine come from: pulled names those that
// a registry has and that need no compilation, lacking those that no source has. All
// registries are asked at once, and none is waited for beyond limit.
func (s *Supply) Find(ctx context.Context, images []catalog.Image, limit time.Duration) (pulled map[string]bool, lacking map[string]plan.Cause) {
	pulled, lacking = map[string]bool{}, map[string]plan.Cause{}
	ask := map[string][]catalog.Image{} // by reference
	for _, img := range images {
		if img.Unpinned() {
			lacking[img.Name] = s.unpinned(img)
			continue
		}
		p, ok := s.pull(img)
		only := img.Registry != "" || !s.allows(spec.SourceSource)
		switch {
		case only && ok && s.registries == nil:
			lacking[img.Name] = Unreachable(img.Name, errNotAllowed(p.Reference))
		case only && !ok:
			lacking[img.Name] = Unreachable(img.Name, fmt.Errorf("image %s %w: images.sources of orrery.yaml does"+
				" not name source, and images.registry is not set", img.Name, image.ErrNotReachable))
		case only, ok && s.registries != nil && s.registryFirst():
			ask[p.Reference] = append(ask[p.Reference], img)
		}
	}
	if len(ask) == 0 {
		return pulled, lacking
	}
	start := time.Now()
	probing, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	found := s.registries.Probe(probing, slices.Sorted(maps.Keys(ask)))
	var here []string // first-party images that are built after all
	var why error
	for ref, err := range found {
		for _, img := range ask[ref] {
			switch {
			case err == nil:
				pulled[img.Name] = true
			case img.Registry == "" && s.allows(spec.SourceSource):
				here, why = append(here, img.Name), err
			default:
				lacking[img.Name] = Unreachable(img.Name, err)
			}
		}
	}
	s.mu.Lock()
	maps.Copy(s.pulled, pulled)
	s.mu.Unlock()
	if len(pulled)+len(here) > 0 { // what is left out is told by itself
		message := fmt.Sprintf("registries were asked for %d images in %.1f s: %d are pulled", len(ask), time.Since(start).Seconds(), len(pulled))
		if len(here) > 0 {
			slices.Sort(here)
			message += fmt.Sprintf(", %d built here: %s (%v)", len(here), strings.Join(here, ", "), why)
		}
		s.options.Sink.Emit(ui.Event{Type: ui.TypeNotice, Phase: plan.PhaseBuild, Message: message})
	}
	return pulled, lacking
}

// registryFirst: a registry is asked before anything is compiled.
func (s *Supply) registryFirst() bool {
	of := s.options.Images.Sources
	registry, source := slices.Index(of, spec.SourceRegistry), slices.Index(of, spec.SourceSource)
	return registry >= 0 && (source < 0 || registry < source)
}

// Fetched reports whether an image came from a registry, and was not made here.
func (s *Supply) Fetched(built image.Built) bool {
	return s.registries != nil && s.registries.Holds(built)
}

// Unpublished are the images that images.registry does not have under the digest that they are
// named by, with the cause. digests maps names of images to them.
func (s *Supply) Unpublished(ctx context.Context, digests map[string]string, limit time.Duration) map[string]plan.Cause {
	missing := map[string]plan.Cause{}
	lacks := func(name string, err error) {
		missing[name] = Unreachable(name, err)
		cause := missing[name]
		cause.Root = err.Error() + "; 'orrery images push " + name + "' pushes it from where it was built"
		missing[name] = cause
	}
	registries, err := s.publisher()
	refs := map[string]string{}
	for name, digest := range digests {
		if err != nil {
			lacks(name, fmt.Errorf("%w: %w", image.ErrNotReachable, err))
			continue
		}
		refs[s.options.Images.Registry+"/"+name+"@"+digest] = name
	}
	if len(refs) == 0 {
		return missing
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for ref, err := range registries.Probe(ctx, slices.Sorted(maps.Keys(refs))) {
		if err != nil {
			lacks(refs[ref], err)
		}
	}
	return missing
}

// publisher talks to images.registry, also where images are not to be pulled from registries.
func (s *Supply) publisher() (*image.Registries, error) {
	if s.registries != nil {
		return s.registries, nil
	}
	return image.NewRegistries(image.RegistryOptions{CacheDir: s.options.CacheDir, CABundle: s.options.Images.CABundle})
}

// Published is images.registry, which is pushed to and read back from.
func (s *Supply) Published() (image.Published, error) {
	if s.options.Images.Registry == "" {
		return image.Published{}, failure.Usagef("images.registry of orrery.yaml names no registry")
	}
	registries, err := s.publisher()
	return image.Published{Registries: registries, Address: s.options.Images.Registry}, err
}

// Publish pushes an image that is on this machine to images.registry, with what is attached to
// it, and signs it there with its documents, unless somebody else built it and stands for it:
// then signed is false, and key is not asked for. reference is by digest. Credentials are those
// of docker and podman.
func (s *Supply) Publish(ctx context.Context, img catalog.Image, key func() (*sign.Key, error)) (
	reference string, signed bool, err error) {
	to, err := s.Published()
	if err != nil {
		return "", false, err
	}
	built, ok, err := s.CachedImage(ctx, img)
	if err != nil {
		return "", false, err
	}
	if !ok {
		return "", false, fmt.Errorf("image %s is not on this machine: 'orrery images build %[1]s' builds it, 'orrery bundle import'"+
			" brings it, and 'orrery up' of an environment with a mirror pulls it", img.Name)
	}
	if err := to.Push(ctx, built); err != nil {
		return "", false, err
	}
	signed, err = s.Sign(ctx, to, img, built, key)
	return to.Address + "/" + built.Name + "@" + built.Digest, signed, err
}

// Sign signs an image that a registry has, and attaches its documents. signed is false of one
// of the catalogue's own that was pulled: who built it stands for it. Of one that only a
// registry has, the signature says that its digest is the catalogue's, and no more.
func (s *Supply) Sign(ctx context.Context, in sign.Registry, img catalog.Image, built image.Built, key func() (*sign.Key, error)) (
	signed bool, err error) {
	var docs sign.Documents
	switch {
	case img.Registry == "" && s.Fetched(built):
		return false, nil
	case img.Registry == "":
		if docs, err = s.Documents(ctx, img, built); err != nil {
			return false, err
		}
	case built.Digest != img.RegistryDigest():
		return false, fmt.Errorf("image %s is %s, the catalogue has %s", img.Name, built.Digest, img.RegistryDigest())
	}
	k, err := key()
	if err != nil {
		return false, err
	}
	return true, sign.Attach(ctx, in, built.Name, built.Digest, k, docs)
}
