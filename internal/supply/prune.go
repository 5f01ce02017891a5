package supply

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"

	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
)

// Prune removes from the cache what is not of the catalogue as it is now. Out of a bundle
// only pulled images are looked at.
func (s *Supply) Prune(ctx context.Context, dryRun bool) (image.Pruned, error) {
	p := image.Pruned{Binaries: []string{}, Images: []string{}}
	all := s.All()
	var err error
	if s.builder != nil {
		var others []*image.Builder
		if others, err = s.otherBuilders(); err == nil {
			p, err = s.builder.Prune(ctx, slices.Collect(maps.Values(all.Binaries)), slices.Collect(maps.Values(all.Built())), dryRun, others...)
		}
	}
	return p, errors.Join(err, s.prunePulled(ctx, all, &p, dryRun))
}

// otherBuilders are those for the other platforms that the lock has.
func (s *Supply) otherBuilders() ([]*image.Builder, error) {
	l, err := lock.Load(s.LockFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err // without it nobody can say what is needed
	}
	others, err := s.elsewhere(l)
	var out []*image.Builder
	for _, other := range others {
		out = append(out, other.builder)
	}
	return out, err
}

// prunePulled removes pulled images that are neither the catalogue's nor the lock's.
func (s *Supply) prunePulled(ctx context.Context, all Parts, p *image.Pruned, dryRun bool) error {
	var keep []string
	if s.Locked != nil {
		for _, img := range s.Locked.Images {
			keep = append(keep, img.Digest)
		}
	}
	for _, img := range all.Pulled() {
		keep = append(keep, img.RegistryDigest())
	}
	r, err := image.NewRegistries(image.RegistryOptions{CacheDir: s.options.CacheDir})
	if err != nil {
		return err
	}
	return r.Prune(ctx, p, keep, dryRun)
}

// PruneBundles removes imported bundles that no environment was made from. used says which
// those are; when it cannot, nobody can say what is needed.
func PruneBundles(cacheDir string, used func() (map[string]bool, error), dryRun bool) ([]bundle.Pruned, error) {
	if _, err := used(); err != nil {
		return nil, err
	}
	// Asked again for each: environments are made meanwhile.
	keep := func(digest string) bool {
		now, err := used()
		return err != nil || now[digest]
	}
	return bundle.Prune(cacheDir, keep, dryRun)
}
