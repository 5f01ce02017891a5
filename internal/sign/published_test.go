package sign

import (
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/orrery-dev/orrery/internal/image"
)

// answer is what a registry may say in place of a list of referrers; code 0: nothing.
type answer struct {
	code int
	text string
}

// personsRegistry speaks TLS, has images below /acme, and wants a name and a password of who
// writes. It deletes nothing, as many do. writes counts what came in.
func personsRegistry(t *testing.T, api bool, instead answer) (at func(user string) image.Published, p published, writes *atomic.Int32) {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(api))
	behind := httptest.NewServer(inner)
	t.Cleanup(behind.Close)
	p = publish(t, strings.TrimPrefix(behind.URL, "http://")+"/acme")

	writes = new(atomic.Int32)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, known := r.BasicAuth()
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		switch {
		case known && user != "me", !known && (!reads || r.URL.Path == "/v2/"):
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusMethodNotAllowed)
		case instead.code != 0 && strings.Contains(r.URL.Path, "/referrers/"):
			w.WriteHeader(instead.code)
			_, _ = io.WriteString(w, instead.text)
		default:
			if !reads {
				writes.Add(1)
			}
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return func(user string) image.Published {
		r, err := image.NewRegistries(image.RegistryOptions{CacheDir: t.TempDir(), CABundle: ca, Keychain: login(user)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return image.Published{Registries: r, Address: strings.TrimPrefix(server.URL, "https://") + "/acme"}
	}, p, writes
}

// login is a user with some password; nobody when empty.
type login string

func (l login) Resolve(authn.Resource) (authn.Authenticator, error) {
	if l == "" {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: string(l), Password: "secret"}), nil
}

// A registry of a person's, whatever it answers to a question that it does not know.
func TestPublished(t *testing.T) {
	for name, tc := range map[string]struct {
		api     bool
		instead answer
	}{
		"referrers API":             {api: true},
		"no such API":               {},
		"no such method":            {instead: answer{http.StatusMethodNotAllowed, ""}},
		"forbidden, like the rest":  {instead: answer{http.StatusForbidden, ""}},
		"no such request":           {instead: answer{http.StatusBadRequest, "{}"}},
		"a page for people instead": {instead: answer{http.StatusOK, "<html>"}},
	} {
		t.Run(name, func(t *testing.T) {
			at, p, writes := personsRegistry(t, tc.api, tc.instead)
			me, k := at("me"), anyKey(t)
			policy := p.policy(k)
			policy.Thorough = true
			if _, err := Verify(t.Context(), me, imageName, p.digest, policy); !errors.Is(err, ErrUnsigned) ||
				!strings.Contains(err.Error(), "orrery images push "+imageName) {
				t.Errorf("unsigned: %v", err)
			}
			for _, now := range []*Key{anyKey(t), k} { // the second finds what the first left
				if err := Attach(t.Context(), me, imageName, p.digest, now, p.docs); err != nil {
					t.Fatal(err)
				}
			}
			if r, err := Verify(t.Context(), me, imageName, p.digest, policy); err != nil || !r.OK() || len(r.Checks) != 5 {
				t.Errorf("%+v, %v", r, err)
			}
			n := writes.Load()
			if err := Attach(t.Context(), me, imageName, p.digest, k, p.docs); err != nil || writes.Load() != n {
				t.Errorf("attached twice: %d writes more, %v", writes.Load()-n, err)
			}
			// What cannot be deleted keeps nobody from signing anew.
			if err := Renew(t.Context(), me, imageName, p.digest, k, p.docs); err != nil {
				t.Errorf("renew: %v", err)
			}
		})
	}
}

// Who may not is told so, and nothing of it is a verdict about the image.
func TestPublishedRights(t *testing.T) {
	at, p, writes := personsRegistry(t, true, answer{})
	k := anyKey(t)
	for _, user := range []string{"", "stranger"} {
		n := writes.Load()
		if err := Attach(t.Context(), at(user), imageName, p.digest, k, p.docs); err == nil || !strings.Contains(err.Error(), "401") || writes.Load() != n {
			t.Errorf("signed by %q: %v", user, err)
		}
	}
	r, err := Verify(t.Context(), at("stranger"), imageName, p.digest, p.policy(k))
	if err == nil || r.OK() || errors.Is(err, ErrUnsigned) || !strings.Contains(err.Error(), "docker login") {
		t.Errorf("read by a stranger: %+v, %v", r, err)
	}
}
