package supply

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/lock"
)

// LockTarget is what is to be locked.
type LockTarget struct {
	Platform string   // "" is this machine's
	Only     []string // build only these binaries and images; the rest stays as it is locked
}

// LockInto builds what is to be locked and puts it into l. Entries of the other platforms that
// are no longer of the catalogue as it is are left out of l. locked is what l had before.
func (s *Supply) LockInto(ctx context.Context, want LockTarget, l *lock.Lock) (locked, have lock.Platform, err error) {
	if l.Platforms == nil {
		l.Platforms = map[string]lock.Platform{}
	}
	own := s.builder.Platform()
	target := cmp.Or(want.Platform, own)
	l.Files = s.lockedFiles()
	maps.DeleteFunc(l.Pins, func(name string, _ lock.Pin) bool { return !s.named(name) })
	locked = l.Platforms[target]
	if target == own {
		if have, err = s.lockOwn(ctx, want.Only, locked); err != nil {
			return locked, have, err
		}
		l.Platforms[own] = have
	}
	others, err := s.elsewhere(*l)
	if err != nil {
		return locked, have, err
	}
	for _, other := range others {
		platform := other.builder.Platform()
		if platform == target {
			continue
		}
		if l.Platforms[platform], err = other.lockedOr(ctx, l.Platforms[platform]); err != nil {
			return locked, have, fmt.Errorf("the lock's entries for %s: %w", platform, err)
		}
	}
	if target == own {
		return locked, have, nil
	}
	other, err := s.forPlatform(target)
	if err != nil {
		return locked, have, err
	}
	parts := other.All()
	if len(want.Only) > 0 {
		if parts, err = parts.only(want.Only); err != nil {
			return locked, have, err
		}
	}
	if err = other.buildAcross(ctx, parts); err != nil {
		return locked, have, err
	}
	have, err = other.lockedOr(ctx, locked)
	l.Platforms[target] = have
	return locked, have, err
}

// lockOwn builds everything for this machine, or what only names, and says what it is.
func (s *Supply) lockOwn(ctx context.Context, only []string, locked lock.Platform) (have lock.Platform, err error) {
	all := s.All()
	parts := all
	if len(only) > 0 {
		if parts, err = all.only(only); err != nil {
			return have, err
		}
	}
	if err := s.buildAll(ctx, parts); err != nil {
		return have, err
	}
	for _, img := range parts.Built() {
		if _, err := s.SBOM(ctx, img); err != nil {
			return have, err
		}
	}
	for _, bin := range s.Catalog.Distribution.Everything().Files() {
		if _, wanted := parts.Binaries[bin.Name]; !wanted {
			continue
		}
		if _, err := s.ProgramSBOM(ctx, bin); err != nil {
			return have, err
		}
	}
	if len(only) > 0 {
		have, err = s.lockedOr(ctx, locked)
		if changed := slices.Sorted(maps.Keys(have.Omitted)); err == nil && len(changed) > 0 {
			return have, failure.Refusedf("--only leaves out what is not as locked either: %s", strings.Join(changed, ", "))
		}
		have.Omitted = nil
	} else if have, err = s.Describe(ctx, all); err == nil {
		s.noteSBOMs(have)
	}
	if err != nil {
		return have, err
	}
	for name := range parts.Binaries {
		b := have.Binaries[name]
		// A build beside others, or with compiler output at hand, measures less than a cold
		// one; and a lock that nothing changed stays as it is.
		if before := locked.Binaries[name]; before.SHA256 == b.SHA256 && before.CPUSeconds > 0 {
			b.CPUSeconds = before.CPUSeconds
		} else {
			b.CPUSeconds = math.Ceil(max(b.CPUSeconds, all.Binaries[name].CPUSeconds))
		}
		have.Binaries[name] = b
	}
	return have, nil
}

// buildAll has every binary and image of the catalogue built.
func (s *Supply) buildAll(ctx context.Context, parts Parts) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, bin := range parts.Binaries {
		g.Go(func() error {
			_, err := s.builder.Binary(ctx, bin)
			return err
		})
	}
	for _, img := range parts.Built() {
		g.Go(func() error {
			_, err := s.builder.Image(ctx, img)
			return err
		})
	}
	return g.Wait()
}

// CompareLock compares the catalogue, and what is built of it here, with a lock; all of it,
// for every platform that the lock has.
func (s *Supply) CompareLock(ctx context.Context, l lock.Lock) (have lock.Platform, elsewhere []lock.Drift, err error) {
	if have, err = s.Describe(ctx, s.All()); err != nil {
		return have, nil, err
	}
	s.noteSBOMs(have)
	elsewhere, err = s.driftElsewhere(ctx, l)
	return have, append(elsewhere, lock.CheckFiles(l.Files, s.lockedFiles())...), err
}

// named reports whether a component names an image by that tag.
func (s *Supply) named(tag string) bool {
	for _, c := range s.Catalog.Components {
		for _, img := range c.Images {
			if img.Registry == tag || strings.HasPrefix(img.Registry, tag+"@") {
				return true
			}
		}
	}
	return false
}
