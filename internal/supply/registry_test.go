package supply

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// maker has nothing and makes everything; it notes what it was asked to make.
type maker struct{ made []string }

func (f *maker) Cached(context.Context, catalog.Binary) (bool, error) { return false, nil }

func (f *maker) Binary(context.Context, catalog.Binary) (string, error) { return "", nil }

func (f *maker) Link(context.Context, string, catalog.Binary) error { return nil }

func (f *maker) CachedImage(context.Context, catalog.Image) (image.Built, bool, error) {
	return image.Built{}, false, nil
}

func (f *maker) Image(_ context.Context, img catalog.Image) (image.Built, error) {
	f.made = append(f.made, img.Name)
	return image.Built{Name: img.Name, Digest: "made"}, nil
}

// world is a registry with one image, acme/app, and its digest.
func world(t *testing.T) (host, digest string, down func()) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host = strings.TrimPrefix(server.URL, "http://")
	img, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewDigest(host + "/acme/app@" + h.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return host, h.String(), server.Close
}

func TestSources(t *testing.T) {
	const absent = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	all := spec.Default().Images.Sources
	for _, tt := range []struct {
		name     string
		sources  []string
		registry string // images.registry; HOST is the test's
		image    catalog.Image
		locked   string // digest; APP is that of the registry's image
		pulled   bool
		made     bool
		lacking  string // part of the reason
	}{
		{"first-party, in the registry", all, "HOST/acme", catalog.Image{Name: "app"}, "APP", true, false, ""},
		{"first-party, not in the registry", all, "HOST/acme", catalog.Image{Name: "app"}, absent, false, true, ""},
		{"first-party, no registry is set", all, "", catalog.Image{Name: "app"}, "APP", false, true, ""},
		{"first-party, not in the lock", all, "HOST/acme", catalog.Image{Name: "app"}, "", false, true, ""},
		{"first-party, source is preferred", []string{"source", "registry"}, "HOST/acme", catalog.Image{Name: "app"}, "APP", false, true, ""},
		{"first-party, registries are not allowed", []string{"source"}, "HOST/acme", catalog.Image{Name: "app"}, "APP", false, true, ""},
		{"first-party, building is not allowed", []string{"registry"}, "HOST/acme", catalog.Image{Name: "app"}, absent, false, false, "does not have it (404); import a bundle or allow a registry"},
		{"first-party, neither", []string{"bundle"}, "", catalog.Image{Name: "app"}, "APP", false, false, "does not name source"},
		{"foreign", all, "", catalog.Image{Name: "app", Registry: "HOST/acme/app@APP"}, "", true, false, ""},
		{"foreign, not there", all, "", catalog.Image{Name: "app", Registry: "HOST/acme/app@" + absent}, "", false, false, "not reachable: the registry does not have it (404); import a bundle or allow a registry"},
		{"foreign, registries are not allowed", []string{"source"}, "", catalog.Image{Name: "app", Registry: "HOST/acme/app@APP"}, "", false, false, "images.sources of orrery.yaml does not name registry; import a bundle"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, digest, _ := world(t)
			fill := strings.NewReplacer("HOST", host, "APP", digest).Replace
			img := tt.image
			img.Version, img.Registry = "v1", fill(img.Registry)
			inner := &maker{}
			policy := spec.Images{Sources: tt.sources, Registry: fill(tt.registry)}
			s, err := testSupply(t, inner, policy, &lock.Platform{Images: map[string]lock.Image{"app": {Digest: fill(tt.locked)}}}, ui.Discard)
			if err != nil {
				t.Fatal(err)
			}
			pulled, lacking := s.Find(t.Context(), []catalog.Image{img}, 20*time.Second)
			if pulled["app"] != tt.pulled || (!lacking["app"].IsZero()) != (tt.lacking != "") || !strings.Contains(lacking["app"].Root, tt.lacking) {
				t.Errorf("pulled %v, lacking %v", pulled, lacking["app"])
			}
			if tt.lacking != "" {
				return
			}
			built, err := s.Image(t.Context(), img)
			if err != nil || (built.Digest == digest) != tt.pulled || (len(inner.made) > 0) != tt.made {
				t.Errorf("%+v, made %q, %v", built, inner.made, err)
			}
			if s.Fetched(built) != tt.pulled { // the next plan compiles nothing for it
				t.Errorf("fetched: %v", s.Fetched(built))
			}
			if _, ok, err := s.CachedImage(t.Context(), img); ok != tt.pulled || err != nil {
				t.Errorf("afterwards it is here: %v, %v", ok, err)
			}
		})
	}
}

// A registry that is gone between the plan and the pull: what can be built is built.
func TestSourcesFallBack(t *testing.T) {
	host, digest, down := world(t)
	inner := &maker{}
	var warned []string
	sink := ui.SinkFunc(func(e ui.Event) {
		if e.Type == ui.TypeWarning {
			warned = append(warned, e.Message)
		}
	})
	policy := spec.Images{Sources: spec.Default().Images.Sources, Registry: host + "/acme"}
	s, err := testSupply(t, inner, policy, &lock.Platform{Images: map[string]lock.Image{"app": {Digest: digest}}}, sink)
	if err != nil {
		t.Fatal(err)
	}
	own, foreign := catalog.Image{Name: "app", Version: "v1"}, catalog.Image{Name: "other", Version: "v1", Registry: host + "/acme/app@" + digest}
	if pulled, _ := s.Find(t.Context(), []catalog.Image{own, foreign}, 20*time.Second); len(pulled) != 2 {
		t.Fatalf("pulled %v", pulled)
	}
	down()
	if built, err := s.Image(t.Context(), own); err != nil || built.Digest != "made" || len(warned) != 1 || !strings.Contains(warned[0], "it is built here") {
		t.Errorf("%+v, %v, warned %q", built, err, warned)
	}
	if _, err := s.Image(t.Context(), foreign); !errors.Is(err, image.ErrNotReachable) || Unreachable("other", err).Kind != plan.CauseUnreachable || !strings.Contains(Unreachable("other", err).Root, "import a bundle") {
		t.Errorf("foreign: %v", err)
	}
}

// Whatever registries do, asking them takes no longer than it may.
func TestFindIsBounded(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s, err := testSupply(t, &maker{}, spec.Default().Images, nil, ui.Discard)
	if err != nil {
		t.Fatal(err)
	}
	digest := "@sha256:" + strings.Repeat("0", 64)
	start := time.Now()
	_, lacking := s.Find(t.Context(), []catalog.Image{{Name: "a", Registry: silent.Addr().String() + "/a" + digest}}, ProbeTimeAgain)
	if took := time.Since(start); took > ProbeTimeAgain+15*time.Second || lacking["a"].Kind != plan.CauseNoAnswer {
		t.Errorf("took %s: %v", took, lacking["a"])
	}
}

// testSupply has one source, and a cache of its own.
func testSupply(t *testing.T, inner source, policy spec.Images, locked *lock.Platform, sink ui.Sink) (*Supply, error) {
	t.Helper()
	o := Options{Lock: locked, CacheDir: t.TempDir(), Images: policy, Sink: sink}
	s := &Supply{Locked: locked, options: o, sources: sources{inner}, pulled: map[string]bool{}}
	return s, s.openRegistries()
}
