package supply

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
)

// shelf is a source that has some things, and can make others or not.
type shelf struct {
	name    string
	has     map[string]bool
	makes   bool
	damaged map[string]bool // found out when it is linked
	linked  *[]string
}

func (s *shelf) Cached(_ context.Context, b catalog.Binary) (bool, error) { return s.has[b.Name], nil }

func (s *shelf) Binary(_ context.Context, b catalog.Binary) (string, error) {
	if !s.has[b.Name] && !s.makes {
		return "", errors.New(s.name + " has none")
	}
	return s.name + "/" + b.Name, nil
}

func (s *shelf) Link(ctx context.Context, _ string, b catalog.Binary) error {
	if s.damaged[b.Name] {
		delete(s.has, b.Name)
		return fmt.Errorf("%s: %w", s.name, bundle.ErrDamaged)
	}
	path, err := s.Binary(ctx, b)
	*s.linked = append(*s.linked, path)
	return err
}

func (s *shelf) CachedImage(_ context.Context, i catalog.Image) (image.Built, bool, error) {
	return image.Built{Name: i.Name, Layout: s.name}, s.has[i.Name], nil
}

func (s *shelf) Image(_ context.Context, i catalog.Image) (image.Built, error) {
	if !s.has[i.Name] && !s.makes {
		return image.Built{}, errors.New(s.name + " has none")
	}
	return image.Built{Name: i.Name, Layout: s.name}, nil
}

func TestSeveralSources(t *testing.T) {
	var linked []string
	carried := &shelf{name: "bundle", has: map[string]bool{"dns": true, "kubelet": true, "broken": true}, damaged: map[string]bool{"broken": true}, linked: &linked}
	built := &shelf{name: "source", has: map[string]bool{"kubelet": true}, makes: true, linked: &linked}
	all := sources{carried, built}
	for name, want := range map[string]string{"kubelet": "bundle/kubelet", "other": "source/other"} {
		if got, err := all.Binary(t.Context(), catalog.Binary{Name: name}); err != nil || got != want {
			t.Errorf("Binary(%s) = %q, %v; want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]string{"dns": "bundle", "web": "source"} {
		if got, err := all.Image(t.Context(), catalog.Image{Name: name}); err != nil || got.Layout != want {
			t.Errorf("Image(%s) = %+v, %v; want it from %s", name, got, err, want)
		}
	}
	if ok, err := all.Cached(t.Context(), catalog.Binary{Name: "other"}); ok || err != nil {
		t.Errorf("Cached(other) = %v, %v", ok, err)
	}
	// Damage in a bundle is no reason to fail, where there is source.
	if err := all.Link(t.Context(), "", catalog.Binary{Name: "broken"}); err != nil || len(linked) != 1 || linked[0] != "source/broken" {
		t.Errorf("Link(broken): %v, linked %v", err, linked)
	}
	if _, err := (sources{carried}).Image(t.Context(), catalog.Image{Name: "web"}); err == nil {
		t.Error("nobody has it, and it was given")
	}
}
