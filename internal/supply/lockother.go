package supply

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
)

// forPlatform has the same catalogue compiled for another processor.
func (s *Supply) forPlatform(platform string) (*Supply, error) {
	if platform == "" || platform == s.builder.Platform() {
		return s, nil
	}
	o := s.options
	b, err := image.NewBuilder(build.Options{CacheDir: o.CacheDir, RepoRoot: s.Catalog.Root, Platform: platform, Sink: o.Sink, Log: o.Log})
	if err != nil {
		return nil, failure.Usage{Err: err}
	}
	return &Supply{Catalog: s.Catalog, Locked: s.Locked, options: o, builder: b, sources: sources{b}, pulled: map[string]bool{}}, nil
}

// elsewhere has the catalogue for each other platform that a lock has, by name.
func (s *Supply) elsewhere(l lock.Lock) ([]*Supply, error) {
	var all []*Supply
	for _, platform := range slices.Sorted(maps.Keys(l.Platforms)) {
		if platform == s.builder.Platform() {
			continue
		}
		other, err := s.forPlatform(platform)
		if err != nil {
			return nil, fmt.Errorf("the lock's entries for %s: %w", platform, err)
		}
		all = append(all, other)
	}
	return all, nil
}

// buildAcross builds what can be built for another platform. What cannot is left out, and
// the images of it too.
func (s *Supply) buildAcross(ctx context.Context, parts Parts) error {
	g, building := errgroup.WithContext(ctx)
	for _, bin := range parts.Binaries {
		if s.builder.CannotCross(bin) != "" {
			continue
		}
		g.Go(func() error {
			_, err := s.builder.Binary(building, bin)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, bin := range s.Catalog.Distribution.Everything().Files() {
		if _, wanted := parts.Binaries[bin.Name]; !wanted || s.builder.CannotCross(bin) != "" {
			continue
		}
		if _, err := s.ProgramSBOM(ctx, bin); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(parts.Built())) {
		img := parts.Images[name]
		if slices.ContainsFunc(img.Binaries, func(b catalog.Binary) bool { return s.builder.CannotCross(b) != "" }) {
			continue
		}
		if _, err := s.SBOM(ctx, img); err != nil {
			return err
		}
	}
	return nil
}

// driftElsewhere compares the parts of other platforms with the catalogue. What they omit is
// no drift, and what is built here of them is compared too.
func (s *Supply) driftElsewhere(ctx context.Context, l lock.Lock) ([]lock.Drift, error) {
	others, err := s.elsewhere(l)
	if err != nil {
		return nil, err
	}
	var all []lock.Drift
	for _, other := range others {
		platform := other.builder.Platform()
		have, err := other.Describe(ctx, other.All())
		if err != nil {
			return nil, err
		}
		drift, _ := lock.Check(l.Platforms[platform], have, true)
		for _, d := range drift {
			d.Name += " (" + platform + ")"
			all = append(all, d)
		}
	}
	return all, nil
}

// lockedOr is what the lock has for another platform: what is built here, else what was
// locked before from the same inputs, else the word that it is omitted.
func (s *Supply) lockedOr(ctx context.Context, old lock.Platform) (lock.Platform, error) {
	all := s.All()
	have, err := s.Describe(ctx, all)
	if err != nil {
		return have, err
	}
	s.noteSBOMs(have)
	have.Omitted = map[string]string{}
	again := "not built from these inputs yet: orrery lock --platform " + s.builder.Platform()
	for name, b := range have.Binaries {
		before, locked := old.Binaries[name]
		same := lock.Platform{Binaries: map[string]lock.Binary{name: before}}
		input := b
		input.SHA256 = ""
		drift, _ := lock.Check(same, lock.Platform{Binaries: map[string]lock.Binary{name: input}}, false)
		switch locked = locked && len(drift) == 0; {
		case b.SHA256 != "":
			b.CPUSeconds = math.Ceil(b.CPUSeconds)
			if locked && before.SHA256 == b.SHA256 {
				b.CPUSeconds = before.CPUSeconds
			}
			if b.SBOM == "" && before.SHA256 == b.SHA256 {
				b.SBOM = before.SBOM
			}
			have.Binaries[name] = b
		case locked:
			have.Binaries[name] = before
		default:
			delete(have.Binaries, name)
			have.Omitted["binary "+name] = again
			if why := s.builder.CannotCross(all.Binaries[name]); why != "" {
				have.Omitted["binary "+name] = why
			}
		}
	}
	for name, i := range have.Images {
		missing := slices.IndexFunc(i.Binaries, func(b string) bool { _, ok := have.Binaries[b]; return !ok })
		before, locked := old.Images[name]
		input := i
		input.Digest = ""
		drift, _ := lock.Check(lock.Platform{Images: map[string]lock.Image{name: before}}, lock.Platform{Images: map[string]lock.Image{name: input}}, false)
		locked = locked && len(drift) == 0 && !slices.ContainsFunc(i.Binaries, func(b string) bool { return have.Binaries[b].SHA256 != old.Binaries[b].SHA256 })
		switch {
		case missing >= 0:
			have.Omitted["image "+name] = have.Omitted["binary "+i.Binaries[missing]]
			delete(have.Images, name)
		case i.Digest != "" && i.SBOM != "":
		case locked:
			have.Images[name] = before
		default:
			have.Omitted["image "+name] = again
			delete(have.Images, name)
		}
	}
	return have, nil
}
