package supply

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Describe is what the parts are made from, and their digests as far as they are built. It
// builds nothing. Out of a bundle it is what the lock says.
func (s *Supply) Describe(ctx context.Context, parts Parts) (lock.Platform, error) {
	if s.builder != nil {
		return describe(ctx, s.builder, parts.Binaries, parts.Images)
	}
	have := lock.Platform{Binaries: map[string]lock.Binary{}, Images: map[string]lock.Image{}}
	for name := range parts.Binaries {
		if b, ok := s.Locked.Binaries[name]; ok {
			have.Binaries[name] = b
		}
	}
	for name := range parts.Images {
		if i, ok := s.Locked.Images[name]; ok {
			have.Images[name] = i
		}
	}
	return have, nil
}

// describe says what the given binaries and images are made from, and their digests as
// far as they are built. It builds nothing.
func describe(ctx context.Context, b *image.Builder, binaries map[string]catalog.Binary, images map[string]catalog.Image) (lock.Platform, error) {
	have := lock.Platform{Binaries: map[string]lock.Binary{}, Images: map[string]lock.Image{}}
	var mu sync.Mutex
	var g errgroup.Group
	for name, bin := range binaries {
		g.Go(func() error {
			d, err := b.Describe(ctx, bin)
			mu.Lock()
			defer mu.Unlock()
			have.Binaries[name] = d
			return err
		})
	}
	for name, img := range images {
		if img.Registry != "" {
			continue // the catalogue has its digest
		}
		g.Go(func() error {
			d, err := b.DescribeImage(ctx, img)
			mu.Lock()
			defer mu.Unlock()
			have.Images[name] = d
			return err
		})
	}
	return have, g.Wait()
}

// RefuseDrift refuses to use binaries and images that are not the locked ones. Those not
// built yet are judged by what they will be made from, before hours of compiling.
func (s *Supply) RefuseDrift(ctx context.Context, binaries map[string]catalog.Binary, images map[string]catalog.Image) error {
	if s.Locked == nil || s.builder == nil { // what is not built here was found by its digest
		return nil
	}
	have, err := describe(ctx, s.builder, binaries, images)
	if err != nil {
		return err
	}
	drift, notes := lock.Check(*s.Locked, have, false)
	for _, n := range notes {
		s.warn(ui.Event{Phase: plan.PhaseBuild}, "%s", n)
	}
	if len(drift) == 0 {
		return nil
	}
	return failure.Refusedf("%s does not allow it:\n%s", s.LockFile(), lock.Explain(drift))
}

// RefuseAllDrift is RefuseDrift for everything that an environment is made of; out of a
// bundle it refuses an environment of which the bundle has only a part.
func (s *Supply) RefuseAllDrift(ctx context.Context, parts Parts) error {
	if s.builder == nil {
		return s.refuseMissing(ctx, parts)
	}
	if s.Locked == nil {
		s.warn(ui.Event{Phase: plan.PhaseBuild}, "%s has nothing for %s: what is built is compared with nothing"+
			" ('orrery lock' writes it)", s.LockFile(), build.Platform())
	}
	return s.RefuseDrift(ctx, parts.Binaries, parts.Images)
}

func (s *Supply) refuseMissing(ctx context.Context, parts Parts) error {
	var missing []string
	for name, bin := range parts.Binaries {
		if ok, err := s.Cached(ctx, bin); err != nil {
			return err
		} else if !ok {
			missing = append(missing, "program "+name)
		}
	}
	for name, img := range parts.Built() { // of the others the components are skipped, with the reason
		if _, ok, err := s.CachedImage(ctx, img); err != nil {
			return err
		} else if !ok {
			missing = append(missing, "image "+name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return failure.Refusedf("bundle %s does not have, or has no more: %s\n  import it again"+
		" (orrery bundle import FILE), choose other components in orrery.yaml, or have a bundle made with them"+
		" (orrery bundle create --components …)",
		s.options.Location.Bundle(), strings.Join(missing, ", "))
}

// RefuseBuilding refuses to compile what orrery.yaml would not let be compiled, or not let
// run afterwards.
func (s *Supply) RefuseBuilding(bins []catalog.Binary, keys Keys) error {
	if len(bins) == 0 || s.builder == nil {
		return nil
	}
	var names []string
	for _, b := range bins {
		names = append(names, b.Name)
	}
	slices.Sort(names)
	if !s.allows(spec.SourceSource) {
		return failure.Refusedf("%s would have to be compiled, and images.sources of orrery.yaml does not name"+
			" source: name it, or import a bundle", strings.Join(names, ", "))
	}
	if err := keys.refuseBuilder(); err != nil {
		return failure.Refused{Err: fmt.Errorf("%w; this would have to be:"+
			" %s\n  take it from a bundle or a registry (images.sources, images.registry), or add that builder", err, strings.Join(names, ", "))}
	}
	return nil
}
