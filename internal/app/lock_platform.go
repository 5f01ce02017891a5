package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/ui"
)

// forPlatform is the workshop with a builder that compiles across.
func (w *workshop) forPlatform(o *options, platform string, sink ui.Sink) (*workshop, error) {
	if platform == "" || platform == w.builder.Platform() {
		return w, nil
	}
	b, err := image.NewBuilder(build.Options{CacheDir: cacheRoot(), RepoRoot: w.catalog.Root, Platform: platform, Sink: sink, Log: o.logger()})
	if err != nil {
		return nil, usageError{err}
	}
	across := *w
	across.builder, across.supply = b, b
	return &across, nil
}

// elsewhere is the workshop for each other platform that a lock has, by name.
func (w *workshop) elsewhere(o *options, l lock.Lock, sink ui.Sink) ([]*workshop, error) {
	var all []*workshop
	for _, platform := range slices.Sorted(maps.Keys(l.Platforms)) {
		if platform == w.builder.Platform() {
			continue
		}
		other, err := w.forPlatform(o, platform, sink)
		if err != nil {
			return nil, fmt.Errorf("the lock's entries for %s: %w", platform, err)
		}
		all = append(all, other)
	}
	return all, nil
}

// across are builders for the other platforms that the lock has.
func (w *workshop) across(o *options) ([]*image.Builder, error) {
	l, err := lock.Load(w.lockFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err // without it nobody can say what is needed
	}
	others, err := w.elsewhere(o, l, ui.Discard)
	var out []*image.Builder
	for _, other := range others {
		out = append(out, other.builder)
	}
	return out, err
}

// only leaves the named binaries and images, and what those images consist of.
func (w *workshop) only(names []string) (*workshop, error) {
	some := *w
	some.binaries, some.images = map[string]catalog.Binary{}, map[string]catalog.Image{}
	for _, name := range names {
		bin, isBinary := w.binaries[name]
		img, isImage := w.images[name]
		if !isBinary && !isImage {
			return nil, usagef("--only %s: neither a binary nor an image of the catalogue", name)
		}
		if isBinary {
			some.binaries[name] = bin
		}
		if isImage {
			some.images[name] = img
			for _, bin := range img.Binaries {
				some.binaries[bin.Name] = bin
			}
		}
	}
	return &some, nil
}

// buildAcross builds what can be built for another platform. What cannot is left out, and
// the images of it too.
func (w *workshop) buildAcross(ctx context.Context) error {
	g, building := errgroup.WithContext(ctx)
	for _, bin := range w.binaries {
		if w.builder.CannotCross(bin) != "" {
			continue
		}
		g.Go(func() error {
			_, err := w.builder.Binary(building, bin)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, bin := range w.catalog.Distribution.Everything().Files() {
		if _, wanted := w.binaries[bin.Name]; !wanted || w.builder.CannotCross(bin) != "" {
			continue
		}
		if _, err := w.programSBOM(ctx, bin); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.images)) {
		img := w.images[name]
		if slices.ContainsFunc(img.Binaries, func(b catalog.Binary) bool { return w.builder.CannotCross(b) != "" }) {
			continue
		}
		if _, err := w.sbom(ctx, img); err != nil {
			return err
		}
	}
	return nil
}

// driftElsewhere compares the parts of other platforms with the catalogue. What they omit is
// no drift, and what is built here of them is compared too.
func (w *workshop) driftElsewhere(ctx context.Context, o *options, l lock.Lock) ([]lock.Drift, error) {
	others, err := w.elsewhere(o, l, ui.Discard)
	if err != nil {
		return nil, err
	}
	var all []lock.Drift
	for _, other := range others {
		platform := other.builder.Platform()
		have, err := describe(ctx, other.builder, other.binaries, other.images)
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

// settle is what the lock has for another platform: what is built here, else what was
// locked before from the same inputs, else the word that it is omitted.
func (w *workshop) settle(ctx context.Context, old lock.Platform) (lock.Platform, error) {
	have, err := describe(ctx, w.builder, w.binaries, w.images)
	if err != nil {
		return have, err
	}
	w.noteSBOMs(have)
	have.Omitted = map[string]string{}
	again := "not built from these inputs yet: orrery lock --platform " + w.builder.Platform()
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
			if why := w.builder.CannotCross(w.binaries[name]); why != "" {
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
