package supply

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
)

// What is pushed is signed with all that is said of it, by whoever has it from who built it; and
// goes on with those signatures, by whoever pulled it, also where a registry lists them by tag.
func TestPublish(t *testing.T) {
	for name, api := range map[string]bool{"referrers API": true, "referrers by tag": false} {
		t.Run(name, func(t *testing.T) {
			s := newSmall(t)
			key := func() (*sign.Key, error) {
				return ThisMachine(s.Root).Key(t.Context(), "", spec.Images{})
			}
			t.Setenv(passwordVariable, "of this test")
			first, second := acme(t, api), acme(t, api)
			img := s.bundled(t).All().Images["shop"]

			here := s.open(t, Folder(s.Root), func(o *Options) { o.Images.Registry = first })
			k, err := key()
			if err != nil {
				t.Fatal(err)
			}
			policy := sign.Policy{Keys: []sign.PublicKey{k.Public()}, Locked: here.Locked, Thorough: true}
			for range 2 {
				ref, signed, err := here.Publish(t.Context(), img, key)
				if err != nil || !signed || ref != first+"/shop@"+here.Locked.Images["shop"].Digest {
					t.Fatalf("%s, %v, %v", ref, signed, err)
				}
			}
			verified(t, here, img, policy)

			// Another machine, which has the image from there, and no key.
			cache := t.TempDir()
			there := func(images string) *Supply {
				return s.open(t, Folder(s.Root), func(o *Options) {
					o.CacheDir, o.Images.Registry, o.Images.Sources = cache, images, []string{spec.SourceRegistry}
				})
			}
			from := there(first)
			if pulled, lacking := from.Find(t.Context(), []catalog.Image{img}, ProbeTime*10); !pulled["shop"] {
				t.Fatalf("not found: %v", lacking)
			}
			built, err := from.Image(t.Context(), img)
			if err != nil || !from.Fetched(built) {
				t.Fatalf("%+v, %v", built, err)
			}
			// It is known by where it was pulled from, and by its digest goes anywhere.
			to := there(second)
			_, signed, err := to.Publish(t.Context(), img, func() (*sign.Key, error) { return nil, errors.New("there is no key") })
			if err != nil || signed {
				t.Fatalf("signed %v, %v", signed, err)
			}
			verified(t, to, img, policy)
		})
	}
}

// acme is a folder of a registry.
func acme(t *testing.T, api bool) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(api)))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://") + "/acme"
}

func verified(t *testing.T, s *Supply, img catalog.Image, policy sign.Policy) {
	t.Helper()
	published, err := s.Published()
	if err != nil {
		t.Fatal(err)
	}
	r, err := sign.Verify(t.Context(), published, img.Name, s.Locked.Images[img.Name].Digest, policy)
	if err != nil || !r.OK() || len(r.Checks) != 5 {
		t.Errorf("%s: %+v, %v", published, r, err)
	}
}

// An image that only a registry has is signed for being the catalogue's, which it has to be.
func TestPublishForeign(t *testing.T) {
	t.Setenv(passwordVariable, "of this test")
	host, digest, _ := world(t)
	policy := spec.Images{Sources: spec.Default().Images.Sources, Registry: acme(t, true)}
	s, err := testSupply(t, &maker{}, policy, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	img := catalog.Image{Name: "app", Version: "v1", Registry: host + "/acme/app@" + digest}
	dir := t.TempDir()
	key := func() (*sign.Key, error) { return ThisMachine(dir).Key(context.Background(), "", spec.Images{}) }
	if _, _, err := s.Publish(t.Context(), img, key); err == nil || !strings.Contains(err.Error(), "is not on this machine") {
		t.Errorf("not pulled yet: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, sign.PublicFile)); err == nil {
		t.Error("a key was made for nothing")
	}
	pull, _ := s.pull(img)
	if _, err := s.registries.Fetch(t.Context(), pull, func(_, _ float64) {}); err != nil {
		t.Fatal(err)
	}
	if _, signed, err := s.Publish(t.Context(), img, key); err != nil || !signed {
		t.Fatalf("%v, %v", signed, err)
	}
	k, err := key()
	if err != nil {
		t.Fatal(err)
	}
	published, err := s.Published()
	if err != nil {
		t.Fatal(err)
	}
	if r, err := sign.Verify(t.Context(), published, "app", digest, PolicyFor(sign.Policy{Keys: []sign.PublicKey{k.Public()}}, img)); err != nil || !r.OK() {
		t.Errorf("%+v, %v", r, err)
	}
}
