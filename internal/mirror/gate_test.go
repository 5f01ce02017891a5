package mirror

import (
	"context"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// guarded is a registry behind two gates: one that takes writes, and one of the nodes.
func guarded(t *testing.T) (open Mirror, nodes string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, NewPassword(), 0o600); err != nil {
		t.Fatal(err)
	}
	inner := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true)))
	t.Cleanup(inner.Close)
	gate := Gate{Hosts: []string{"127.0.0.1", "localhost"}, Log: slog.New(slog.DiscardHandler), Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", inner.Listener.Addr().String())
	}}
	reading := httptest.NewServer(gate.Handler())
	t.Cleanup(reading.Close)
	gate.Password = func() (string, error) { return ReadPassword(file) }
	writing := httptest.NewServer(gate.Handler())
	t.Cleanup(writing.Close)
	return Mirror{Address: writing.Listener.Addr().String(), PasswordFile: file}, reading.Listener.Addr().String()
}

func TestGate(t *testing.T) {
	m, nodes := guarded(t)
	tag, err := name.NewTag(m.Address+"/pause:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := random.Image(1024, 2)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := random.Image(1024, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, ours, remote.WithAuth(m)); err != nil {
		t.Fatalf("with the password: %v", err)
	}
	// What was done to the sandbox image of a running platform, by any user of the machine.
	for who, auth := range map[string]authn.Authenticator{
		"nobody": authn.Anonymous, "a guess": &authn.Basic{Username: User, Password: "orrery"}, "another user": &authn.Basic{Username: "root", Password: secret(t, m)},
		"a mirror whose password is lost": Mirror{Address: m.Address, PasswordFile: m.PasswordFile + ".gone"},
	} {
		if err := remote.Write(tag, theirs, remote.WithAuth(auth)); err == nil {
			t.Errorf("%s overwrote pause:1", who)
		}
		if err := remote.Delete(tag, remote.WithAuth(auth)); err == nil {
			t.Errorf("%s deleted pause:1", who)
		}
	}
	digest, err := ours.Digest()
	if err != nil {
		t.Fatal(err)
	}
	through, err := name.NewTag(nodes+"/pause:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(through, theirs, remote.WithAuth(m)); err == nil {
		t.Error("the nodes' side takes writes")
	}
	for _, from := range []name.Tag{tag, through} {
		img, err := remote.Image(from)
		if err != nil {
			t.Fatalf("reading needs no password: %v", err)
		}
		if have, _ := img.Digest(); have != digest {
			t.Errorf("pause:1 is %s, want %s", have, digest)
		}
		layers, _ := img.Layers()
		r, err := layers[1].Compressed()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Error(err)
		}
	}
}

func secret(t *testing.T, m Mirror) string {
	t.Helper()
	p, err := ReadPassword(m.PasswordFile)
	if err != nil || len(p) < 32 {
		t.Fatalf("password %q, %v", p, err)
	}
	return p
}

// Each request that is not a read of one name, from a stranger and from who has the password.
func TestGateByRequest(t *testing.T) {
	m, nodes := guarded(t)
	const digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for _, c := range []struct {
		name, method, path string
		header             map[string]string
		stranger, writer   int
		node               int // on the nodes' side
	}{
		{"ping", "GET", "/v2/", nil, 401, 200, 200},
		{"start an upload", "POST", "/v2/a/blobs/uploads/", nil, 401, 202, 403},
		{"go on with an upload", "PATCH", "/v2/a/blobs/uploads/0", nil, 401, 0, 403},
		{"ask for an upload", "GET", "/v2/a/blobs/uploads/0", nil, 401, 0, 403},
		{"put a manifest", "PUT", "/v2/pause/manifests/1", nil, 401, 0, 403},
		{"delete a manifest", "DELETE", "/v2/pause/manifests/" + digest, nil, 401, 404, 403},
		{"delete a blob", "DELETE", "/v2/pause/blobs/" + digest, nil, 401, 0, 403},
		{"all names", "GET", "/v2/_catalog", nil, 401, 200, 403},
		{"outside", "GET", "/debug/pprof/", nil, 401, 404, 403},
		{"dots", "GET", "/v2/a/../_catalog/manifests/x", nil, 401, 0, 403},
		{"absent manifest", "GET", "/v2/a/b-c/manifests/v1.2", nil, 404, 404, 404},
		{"absent blob", "HEAD", "/v2/a/blobs/" + digest, nil, 404, 404, 404},
		{"referrers", "GET", "/v2/a/referrers/" + digest, nil, 404, 404, 404},
		{"tags", "GET", "/v2/a/tags/list", nil, 404, 404, 404},
		{"foreign name", "GET", "/v2/a/manifests/1", map[string]string{"Host": "evil.example:15000"}, 421, 421, 421},
		{"other port", "GET", "/v2/a/manifests/1", map[string]string{"Host": "LOCALHOST:5000"}, 404, 404, 404},
		{"from a page", "GET", "/v2/a/manifests/1", map[string]string{"Origin": "https://evil.example"}, 403, 403, 403},
		{"from a page, without CORS", "GET", "/v2/a/manifests/1", map[string]string{"Sec-Fetch-Site": "cross-site"}, 403, 403, 403},
		{"from a page of this machine", "POST", "/v2/a/blobs/uploads/", map[string]string{"Origin": "http://127.0.0.1:3000"}, 403, 403, 403},
	} {
		t.Run(c.name, func(t *testing.T) {
			ask := func(address string, authorize bool) int {
				req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+address+c.path, strings.NewReader(""))
				if err != nil {
					t.Fatal(err)
				}
				for k, v := range c.header {
					req.Header.Set(k, v)
				}
				req.Host = c.header["Host"]
				if authorize {
					if err := m.Authorize(req); err != nil {
						t.Fatal(err)
					}
				}
				resp, err := http.DefaultTransport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode == http.StatusUnauthorized && !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Basic ") {
					t.Error("401 without a challenge: docker would not log in")
				}
				return resp.StatusCode
			}
			if got := ask(m.Address, false); got != c.stranger {
				t.Errorf("stranger: %d, want %d", got, c.stranger)
			}
			if got := ask(m.Address, true); c.writer != 0 && got != c.writer || got == 401 {
				t.Errorf("with the password: %d, want %d", got, c.writer)
			}
			for _, with := range []bool{false, true} {
				if got := ask(nodes, with); got != c.node {
					t.Errorf("nodes' side: %d, want %d", got, c.node)
				}
			}
		})
	}
}
