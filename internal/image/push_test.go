package image

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/orrery-dev/orrery/internal/build/buildtest"
	"github.com/orrery-dev/orrery/internal/mirror"
)

// counting is a registry that counts uploads.
func counting(t *testing.T) (address string, writes *atomic.Int32) {
	t.Helper()
	writes = new(atomic.Int32)
	real := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			writes.Add(1)
		}
		real.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		server.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		remote.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return strings.TrimPrefix(server.URL, "http://"), writes
}

// inMirror is a registry without a gate.
func inMirror(address string) mirror.Mirror { return mirror.Mirror{Address: address} }

func TestPush(t *testing.T) {
	address, writes := counting(t)
	b, _ := newBuilder(t, t.TempDir())
	img := helloImage(t)
	built, err := b.Image(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	if err := Push(t.Context(), inMirror(address), built); err != nil {
		t.Fatal(err)
	}
	tag, _ := name.NewTag(address+"/hello:v1.2.3", name.Insecure)
	pulled, err := remote.Image(tag)
	if err != nil {
		t.Fatal(err)
	}
	if d, _ := pulled.Digest(); d.String() != built.Digest {
		t.Errorf("the registry has %s, want %s", d, built.Digest)
	}
	valid(t, pulled)
	n := writes.Load()
	if err := Push(t.Context(), inMirror(address), built); err != nil {
		t.Fatal(err)
	}
	if writes.Load() != n {
		t.Errorf("a second push wrote %d times", writes.Load()-n)
	}
	// Same binary, another user: its layer is not sent again.
	img.User = "0"
	if built, err = b.Image(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	if err := Push(t.Context(), inMirror(address), built); err != nil {
		t.Fatal(err)
	}
	if pulled, err = remote.Image(tag); err != nil {
		t.Fatal(err)
	}
	if d, _ := pulled.Digest(); d.String() != built.Digest {
		t.Errorf("the tag did not move to %s", built.Digest)
	}
}

func TestPushErrors(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	img := helloImage(t)
	built, err := b.Image(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	if err := Push(t.Context(), inMirror(strings.TrimPrefix(closed.URL, "http://")), built); err == nil || !strings.Contains(err.Error(), "push hello:v1.2.3") {
		t.Errorf("no registry: %v", err)
	}
	address, writes := counting(t)
	manifest, err := openImage(t, built).Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if err := buildtest.Flip(b.layout.blob(manifest.Layers[1].Digest), true); err != nil {
		t.Fatal(err)
	}
	if err := Push(t.Context(), inMirror(address), built); !errors.Is(err, errCorrupt) {
		t.Errorf("damaged layer: %v", err)
	}
	if writes.Load() != 0 {
		t.Error("a damaged image was sent")
	}
	again, err := b.Image(t.Context(), img)
	if err != nil || again.Digest != built.Digest {
		t.Fatalf("made again: %+v, %v; want %s", again, err, built.Digest)
	}
	if err := Push(t.Context(), inMirror(address), again); err != nil {
		t.Error(err)
	}
}

// A registry of the person's has a path, and may want a name and a password.
func TestPushToRegistryOfThePerson(t *testing.T) {
	real := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		real.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	address := strings.TrimPrefix(server.URL, "http://") + "/acme/platform"
	b, _ := newBuilder(t, t.TempDir())
	built, err := b.Image(t.Context(), helloImage(t))
	if err != nil {
		t.Fatal(err)
	}
	for password, want := range map[string]bool{"secret": true, "wrong": false} {
		r, err := NewRegistries(RegistryOptions{CacheDir: t.TempDir(), Keychain: keychain{authn.AuthConfig{Username: "me", Password: password}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		if err := (Published{r, address}).Push(t.Context(), built); (err == nil) != want {
			t.Errorf("push with password %s: %v", password, err)
		}
		ref := address + "/hello@" + built.Digest
		if err := r.Probe(t.Context(), []string{ref})[ref]; (err == nil) != want {
			t.Errorf("probe with password %s: %v", password, err)
		}
	}
}

type keychain struct{ authn.AuthConfig }

func (k keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(k.AuthConfig), nil
}
