package supply

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

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/pinned"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// bundledFiles is the folder of a bundle's catalogue with the files of public repositories.
const bundledFiles = "files"

// files finds the files of public repositories.
func (s *Supply) files() *pinned.Store {
	store := &pinned.Store{CacheDir: s.CacheDir(), Mirrors: s.options.Images.Files}
	if s.store != nil {
		store.Imported = []string{filepath.Join(s.Catalog.Root, bundledFiles)}
		return store
	}
	if s.allows(spec.SourceBundle) {
		for _, b := range bundle.List(s.CacheDir()) {
			store.Imported = append(store.Imported, filepath.Join(b.CatalogDir(), bundledFiles))
		}
	}
	if s.registries != nil {
		store.Client = s.registries.Client()
	}
	return store
}

// Files are the files of public repositories that a component uses, by name. Those that are not
// on this machine are fetched, and have until limit to begin. An error that wraps
// [pinned.ErrNotReachable] is about all of them.
func (s *Supply) Files(ctx context.Context, c catalog.Component, limit time.Duration) (map[string][]byte, error) {
	if len(c.Files) == 0 {
		return nil, nil
	}
	store := s.files()
	files := map[string][]byte{}
	errs := make([]error, len(c.Files))
	var mu sync.Mutex
	var g errgroup.Group
	for i, f := range c.Files {
		g.Go(func() error {
			data, err := store.Get(ctx, f, limit)
			mu.Lock()
			defer mu.Unlock()
			files[f.Name], errs[i] = data, err
			return nil
		})
	}
	_ = g.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("component %s: %w", c.Name, err)
	}
	return files, nil
}

// FindFiles has the files of all components on this machine, as far as they can be had, and says
// which components are left out without theirs. Content that is not as the catalogue says is an
// error, unless images.verify is warn.
func (s *Supply) FindFiles(ctx context.Context, components []catalog.Component, limit time.Duration) (map[string]plan.Cause, error) {
	lacking := map[string]plan.Cause{}
	var mu sync.Mutex
	var g errgroup.Group
	for _, c := range components {
		if len(c.Files) == 0 {
			continue
		}
		g.Go(func() error {
			_, err := s.Files(ctx, c, limit)
			switch {
			case err == nil || ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, pinned.ErrWrongContent) && s.options.Images.Verify != spec.VerifyWarn:
				return failure.Refused{Err: fmt.Errorf("%w\n  if the project moved its file, give component.yaml the new commit and hash; else ask who serves it", err)}
			case errors.Is(err, pinned.ErrWrongContent):
				s.warn(ui.Event{Phase: plan.PhaseDeploy}, "%v", err)
			case !errors.Is(err, pinned.ErrNotReachable):
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			lacking[c.Name] = unreachableFiles(errors.Unwrap(err)) // the cause is of the component
			return nil
		})
	}
	return lacking, g.Wait()
}

// unreachableFiles is why a component is left out: the first of its files that are not there stands for all.
func unreachableFiles(err error) plan.Cause {
	kind := plan.CauseUnreachable
	if errors.Is(err, pinned.ErrNoAnswer) {
		kind = plan.CauseNoAnswer
	}
	root, _, _ := strings.Cut(err.Error(), "\n")
	return plan.Cause{Kind: kind, Root: root + "; import a bundle, or name a mirror (images.files)"}
}

// lockedFiles are the files of the whole catalogue, as the lock lists them.
func (s *Supply) lockedFiles() map[string]lock.File {
	files := map[string]lock.File{}
	for name, c := range s.Catalog.Components {
		for _, f := range c.Files {
			files[name+"/"+f.Name] = lock.File{URL: f.URL, Commit: f.Commit, SHA256: f.SHA256}
		}
	}
	return files
}

// bundledContent adds the files of components, and what is known of them and of images that are
// named by tag, to what a bundle is made of.
func (s *Supply) bundledContent(ctx context.Context, components []catalog.Component, l *lock.Lock, c *bundle.Contents) error {
	whole, err := readLock(s.Catalog.Root)
	if err != nil {
		return err
	}
	l.Pins, l.Files = whole.Pins, whole.Files
	c.Extra = map[string][]byte{}
	for _, component := range components {
		files, err := s.Files(ctx, component, ProbeTime)
		if err != nil {
			if !errors.Is(err, pinned.ErrNotReachable) {
				return err
			}
			s.warn(ui.Event{}, "the bundle goes without the files of %s: %v", component.Name, err)
			continue
		}
		for _, f := range component.Files {
			c.Extra[bundledFiles+"/"+f.SHA256] = files[f.Name]
		}
	}
	return nil
}

// Pinned is what [Supply.Pin] found out about one image; its form is a contract.
type Pinned struct {
	Image     string   `json:"image"`
	Reference string   `json:"reference"`
	Before    string   `json:"before,omitempty"` // digest that the lock had
	Pin       lock.Pin `json:"pin"`
}

// Pin asks registries what the images of a component are that component.yaml names by tag, and
// writes the answers into l. A digest that the lock has already and that the tag no longer
// names is an error, unless move is set: then it is taken.
func (s *Supply) Pin(ctx context.Context, component string, l *lock.Lock, today time.Time, move bool) ([]Pinned, error) {
	c, ok := s.Catalog.Components[component]
	if !ok {
		return nil, failure.Usagef("there is no component %q in the catalogue; there are: %v", component, slices.Sorted(maps.Keys(s.Catalog.Components)))
	}
	registries, err := s.publisher()
	if err != nil {
		return nil, err
	}
	defer registries.Close()
	pinned := []Pinned{}
	var errs []error
	for _, img := range c.Images {
		// The catalogue was given what the lock has; what component.yaml says stands before it.
		tag, byDigest := cutDigest(img.Registry, l.Pins)
		if img.Registry == "" || byDigest {
			continue
		}
		seen, err := registries.Resolve(ctx, tag)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p := Pinned{Image: img.Name, Reference: tag, Before: l.Pins[tag].Digest, Pin: lock.Pin{
			Digest: seen.Digest, Seen: today.Format(time.DateOnly), Platforms: seen.Platforms, Bytes: seen.Bytes, Labels: originLabels(seen.Labels),
		}}
		switch {
		case p.Before == p.Pin.Digest:
			p.Pin = l.Pins[tag] // the day stays that of the first answer
		case p.Before != "" && !move:
			errs = append(errs, failure.Refusedf("image %s: the lock has %s since %s, and %s is %s now: somebody moved the tag;"+
				" if that is meant: orrery lock pin %s --move", img.Name, p.Before, l.Pins[tag].Seen, tag, p.Pin.Digest, component))
			continue
		}
		pinned = append(pinned, p)
	}
	if err := errors.Join(errs...); err != nil {
		return pinned, err
	}
	if l.Pins == nil {
		l.Pins = map[string]lock.Pin{}
	}
	for _, p := range pinned {
		l.Pins[p.Reference] = p.Pin
	}
	return pinned, nil
}

// cutDigest takes a digest off that came from the lock. byDigest: component.yaml itself has one.
func cutDigest(registry string, pins map[string]lock.Pin) (tag string, byDigest bool) {
	img := catalog.Image{Registry: registry}
	if img.Unpinned() {
		return registry, false
	}
	tag, _, _ = strings.Cut(registry, "@")
	_, fromLock := pins[tag]
	return tag, !fromLock
}

// originLabels are those labels that say where an image comes from
// (https://github.com/opencontainers/image-spec/blob/main/annotations.md).
func originLabels(all map[string]string) map[string]string {
	kept := map[string]string{}
	for _, name := range []string{"version", "revision", "source", "licenses"} {
		const most = 256
		key := "org.opencontainers.image." + name
		if v := all[key]; v != "" && len(v) <= most {
			kept[key] = v
		}
	}
	return kept
}

// unpinned is why an image is not used that component.yaml names by tag.
func (s *Supply) unpinned(img catalog.Image) plan.Cause {
	return plan.Cause{Kind: plan.CauseUnpinned, Image: img.Name, Root: fmt.Errorf("image %s %w: nobody has asked yet which one %s is; where its registry can be reached:"+
		" 'orrery lock pin %s'", img.Name, image.ErrNotReachable, img.Registry, s.All().From[img.Name]).Error()}
}
