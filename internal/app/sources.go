package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// How long registries are asked, all together, whether they have what is wanted. The short
// time is for those that did not answer before: an `up` that has nothing to do stays quick.
const (
	probeTime      = 2 * time.Second
	probeTimeAgain = 600 * time.Millisecond
)

// sourced is a supplier that takes images from registries too, by digest: those that are
// not built here from where the catalogue says, first-party ones from images.registry by
// the lock's digest. What is on this machine already is never asked for.
type sourced struct {
	supplier
	policy     spec.Images
	registries *image.Registries // nil when images.sources does not name them
	locked     *lock.Platform
	sink       ui.Sink

	mu     sync.Mutex
	pulled map[string]bool // first-party images that a registry was found to have
}

func newSourced(inner supplier, policy spec.Images, locked *lock.Platform, sink ui.Sink) (*sourced, error) {
	s := &sourced{supplier: inner, policy: policy, locked: locked, sink: sink, pulled: map[string]bool{}}
	if !slices.Contains(policy.Sources, spec.SourceRegistry) {
		return s, nil
	}
	var err error
	s.registries, err = image.NewRegistries(image.RegistryOptions{CacheDir: cacheRoot(), CABundle: policy.CABundle})
	if err != nil {
		return nil, usageError{err}
	}
	return s, nil
}

// pull is how a registry knows img; false when none does.
func (s *sourced) pull(img catalog.Image) (image.Pull, bool) {
	p := image.Pull{Name: img.Name, Version: img.Version, Reference: img.Registry}
	if img.Registry != "" {
		return p, true
	}
	if s.policy.Registry == "" || s.locked == nil || s.locked.Images[img.Name].Digest == "" {
		return p, false
	}
	p.Reference = s.policy.Registry + "/" + img.Name + "@" + s.locked.Images[img.Name].Digest
	return p, true
}

// holders are the suppliers that may have img: a builder has none that only a registry has.
func (s *sourced) holders(img catalog.Image) []supplier {
	if img.Registry == "" {
		return []supplier{s.supplier}
	}
	all, ok := s.supplier.(sources)
	if !ok {
		all = sources{s.supplier}
	}
	return slices.DeleteFunc(slices.Clone(all), func(one supplier) bool { _, builds := one.(*image.Builder); return builds })
}

// CachedImage is what Image would return, if it would return at once.
func (s *sourced) CachedImage(ctx context.Context, img catalog.Image) (image.Built, bool, error) {
	for _, one := range s.holders(img) {
		if built, ok, err := one.CachedImage(ctx, img); ok || err != nil {
			return built, ok, err
		}
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
func (s *sourced) Image(ctx context.Context, img catalog.Image) (image.Built, error) {
	if built, ok, err := s.CachedImage(ctx, img); ok || err != nil {
		return built, err
	}
	s.mu.Lock()
	pull := s.pulled[img.Name] || img.Registry != ""
	s.mu.Unlock()
	if !pull {
		return s.supplier.Image(ctx, img)
	}
	if s.registries == nil {
		return image.Built{}, errNotAllowed(img.Registry)
	}
	p, _ := s.pull(img)
	step := "image/" + img.Name
	built, err := s.registries.Fetch(ctx, p, func(done, total float64) {
		s.sink.Emit(ui.Event{Type: ui.TypeProgress, Step: step, Phase: "build", Message: "pulling", Done: done, Total: total, Unit: "bytes"})
	})
	if errors.Is(err, image.ErrNotReachable) && img.Registry == "" && slices.Contains(s.policy.Sources, spec.SourceSource) {
		s.sink.Emit(ui.Event{Type: ui.TypeWarning, Step: step, Phase: "build", Message: err.Error() + "; it is built here"})
		return s.supplier.Image(ctx, img)
	}
	return built, err
}

// errNotAllowed is about an image that only a registry has.
func errNotAllowed(reference string) error {
	return fmt.Errorf("image %s %w: images.sources of orrery.yaml does not name registry", reference, image.ErrNotReachable)
}

// missing is why a component is skipped, with what can be done about it.
func missing(err error) string { return err.Error() + "; import a bundle or allow a registry" }

// find decides where images that are not on this machine come from: pulled names those that
// a registry has and that need no compilation, missing those that no source has. All
// registries are asked at once, and none is waited for beyond limit.
func (s *sourced) find(ctx context.Context, images []catalog.Image, limit time.Duration) (pulled map[string]bool, lacking map[string]string) {
	pulled, lacking = map[string]bool{}, map[string]string{}
	ask := map[string][]catalog.Image{} // by reference
	for _, img := range images {
		p, ok := s.pull(img)
		only := img.Registry != "" || !slices.Contains(s.policy.Sources, spec.SourceSource)
		switch {
		case only && ok && s.registries == nil:
			lacking[img.Name] = missing(errNotAllowed(p.Reference))
		case only && !ok:
			lacking[img.Name] = missing(fmt.Errorf("image %s %w: images.sources of orrery.yaml does not name source, and images.registry is not set", img.Name, image.ErrNotReachable))
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
			case img.Registry == "" && slices.Contains(s.policy.Sources, spec.SourceSource):
				here, why = append(here, img.Name), err
			default:
				lacking[img.Name] = missing(err)
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
		s.sink.Emit(ui.Event{Type: ui.TypeNotice, Phase: "build", Message: message})
	}
	return pulled, lacking
}

// registryFirst: a registry is asked before anything is compiled.
func (s *sourced) registryFirst() bool {
	registry, source := slices.Index(s.policy.Sources, spec.SourceRegistry), slices.Index(s.policy.Sources, spec.SourceSource)
	return registry >= 0 && (source < 0 || registry < source)
}

// fetched: the image came from a registry, and was not made here.
func (s *sourced) fetched(built image.Built) bool {
	return s.registries != nil && s.registries.Holds(built)
}

// find decides where the images come from that are neither here nor quickly made of cached
// binaries.
func (p *platform) find(ctx context.Context, cached map[string]bool, running bool) (pulled map[string]bool, lacking map[string]string) {
	var images []catalog.Image
	var fetched []string // before: as little to be compiled as what is pulled now
	for name, img := range p.images {
		p.mu.Lock()
		built, here := p.built[name]
		p.mu.Unlock()
		if here && p.sources.fetched(built) {
			fetched = append(fetched, name)
		}
		compiled := len(img.Binaries) > 0 && !slices.ContainsFunc(img.Binaries, func(b catalog.Binary) bool { return !cached[b.Name] })
		if !here && !compiled {
			images = append(images, img)
		}
	}
	limit := probeTime
	if running && len(p.skipped) > 0 && len(p.require) == 0 {
		limit = probeTimeAgain
	}
	pulled, lacking = p.sources.find(ctx, images, limit)
	for _, name := range fetched {
		pulled[name] = true
	}
	if limit == probeTimeAgain {
		p.remember(lacking)
	}
	return pulled, lacking
}

// remember puts what was found out in the long time in place of what there was too little
// time for now.
func (p *platform) remember(lacking map[string]string) {
	for _, c := range p.components {
		before := p.skipped[c.Name]
		for _, img := range c.Images {
			if img.Registry != "" && strings.Contains(before, img.Registry) && strings.Contains(lacking[img.Name], image.NoAnswer) {
				lacking[img.Name] = before
			}
		}
	}
}

// fetchedImages finds what was pulled before, or came in a bundle; it asks no registry.
func (o *options) fetchedImages(w *workshop) (func(catalog.Image) (image.Built, bool), error) {
	policy := spec.Default().Images
	if s, err := o.attach(ui.Discard); err == nil {
		policy = s.spec.Images
	}
	s, err := newSourced(w.supply, policy, w.locked, ui.Discard)
	if err != nil {
		return nil, err
	}
	return func(img catalog.Image) (image.Built, bool) {
		for _, one := range s.holders(img) {
			if built, ok, err := one.CachedImage(context.Background(), img); ok && err == nil {
				return built, true
			}
		}
		p, ok := s.pull(img)
		if !ok || s.registries == nil {
			return image.Built{}, false
		}
		return s.registries.Cached(p)
	}, nil
}

// origin is the source that an image on this machine came from.
func origin(built image.Built) string {
	switch filepath.Dir(built.Layout) {
	case cacheRoot():
		if filepath.Base(built.Layout) == image.PulledDir {
			return spec.SourceRegistry
		}
		return spec.SourceSource
	default:
		return spec.SourceBundle
	}
}

// prunePulled removes pulled images that are neither the catalogue's nor the lock's.
func (w *workshop) prunePulled(ctx context.Context, p *image.Pruned, dryRun bool) error {
	if w.lockErr != nil { // without it nobody can say what is needed
		return w.lockErr
	}
	var keep []string
	if w.locked != nil {
		for _, img := range w.locked.Images {
			keep = append(keep, img.Digest)
		}
	}
	for _, img := range w.pulled {
		keep = append(keep, img.RegistryDigest())
	}
	r, err := image.NewRegistries(image.RegistryOptions{CacheDir: cacheRoot()})
	if err != nil {
		return err
	}
	return r.Prune(ctx, p, keep, dryRun)
}
