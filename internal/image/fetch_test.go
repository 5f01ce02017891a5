package image

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/orrery-dev/orrery/internal/build/buildtest"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/oci"
)

// upstreamRegistry is a registry of this world, with what is wrong with it.
type upstreamRegistry struct {
	address  string
	ca       string // PEM file
	requests atomic.Int32
	image    v1.Image
	// trouble is asked first; true: it has answered.
	trouble func(w http.ResponseWriter, r *http.Request) bool
	plain   http.Handler
}

func newUpstream(t *testing.T) *upstreamRegistry {
	t.Helper()
	u := &upstreamRegistry{plain: registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true))}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.requests.Add(1)
		if u.trouble != nil && u.trouble(w, r) {
			return
		}
		u.plain.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	u.address = strings.TrimPrefix(server.URL, "https://")
	u.ca = filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(u.ca, text, 0o644); err != nil {
		t.Fatal(err)
	}
	var err error
	if u.image, err = random.Image(20_000, 3); err != nil {
		t.Fatal(err)
	}
	u.push(t, u.image)
	return u
}

// push puts an image there, past all trouble, and gives its reference.
func (u *upstreamRegistry) push(t *testing.T, what remote.Taggable) Pull {
	t.Helper()
	direct := httptest.NewServer(u.plain)
	defer direct.Close()
	d := digestOf(t, what)
	ref, err := name.NewDigest(strings.TrimPrefix(direct.URL, "http://") + "/acme/app@" + d)
	if err != nil {
		t.Fatal(err)
	}
	switch what := what.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, what)
	case v1.Image:
		err = remote.Write(ref, what)
	}
	if err != nil {
		t.Fatal(err)
	}
	return u.pull(t, what)
}

func (u *upstreamRegistry) pull(t *testing.T, what remote.Taggable) Pull {
	return Pull{Name: "app", Version: "v1", Reference: u.address + "/acme/app:1@" + digestOf(t, what)}
}

func digestOf(t *testing.T, what remote.Taggable) string {
	t.Helper()
	raw, err := what.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(raw))
}

func newRegistries(t *testing.T, o RegistryOptions) *Registries {
	t.Helper()
	if o.CacheDir == "" {
		o.CacheDir = t.TempDir()
	}
	if o.DialTimeout == 0 { // long enough for a busy machine
		o.DialTimeout, o.StallTimeout = 20*time.Second, 20*time.Second
	}
	r, err := NewRegistries(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// alone keeps a person's own credentials and proxies out of a test.
func alone(t *testing.T) {
	for _, v := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"} {
		t.Setenv(v, "")
	}
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("HOME", t.TempDir())
}

func TestFetch(t *testing.T) {
	alone(t)
	u := newUpstream(t)
	r := newRegistries(t, RegistryOptions{CABundle: u.ca})
	p := u.pull(t, u.image)
	if _, ok := r.Cached(p); ok {
		t.Fatal("cached before it was pulled")
	}
	if err := r.Probe(t.Context(), []string{p.Reference})[p.Reference]; err != nil {
		t.Fatal(err)
	}
	var last, total float64
	built, err := r.Fetch(t.Context(), p, func(d, all float64) { last, total = d, all })
	if err != nil {
		t.Fatal(err)
	}
	if built.Digest != digestOf(t, u.image) || built.Size == 0 || last != total || total == 0 {
		t.Errorf("%+v, %v of %v bytes told", built, last, total)
	}
	if again, ok := r.Cached(p); !ok || again.Digest != built.Digest {
		t.Errorf("not cached: %+v", again)
	}
	n := u.requests.Load()
	if _, err := r.Fetch(t.Context(), p, nil); err != nil || u.requests.Load() != n {
		t.Errorf("a second pull asked the registry %d times, %v", u.requests.Load()-n, err)
	}
	mirror, writes := counting(t)
	if err := Push(t.Context(), inMirror(mirror), built); err != nil {
		t.Fatal(err)
	}
	tag, _ := name.NewTag(mirror+"/app:v1", name.Insecure)
	img, err := remote.Image(tag)
	if err != nil {
		t.Fatal(err)
	}
	if d := digestOf(t, img); d != built.Digest {
		t.Errorf("the mirror has %s", d)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	if !Pushed(t.Context(), inMirror(mirror), built) {
		t.Error("not known as pushed")
	}
	n = writes.Load()
	if err := Push(t.Context(), inMirror(mirror), built); err != nil || writes.Load() != n {
		t.Errorf("a second push wrote %d times, %v", writes.Load()-n, err)
	}
	// The same content under another name.
	p.Name = "other"
	if other, err := r.Fetch(t.Context(), p, nil); err != nil || other.Name != "other" || other.Digest != built.Digest {
		t.Errorf("%+v, %v", other, err)
	}
}

// sparseMirror is a registry that takes an index without the images of other platforms, as
// the mirror of an environment is configured to.
func sparseMirror(t *testing.T) string {
	t.Helper()
	plain := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	indexes := map[string][]byte{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, ref, manifest := strings.Cut(r.URL.Path, "/manifests/")
		kind := string(types.OCIImageIndex)
		if manifest && r.Method == http.MethodPut && r.Header.Get("Content-Type") == kind {
			body, _ := io.ReadAll(r.Body)
			indexes[ref], indexes[fmt.Sprintf("sha256:%x", sha256.Sum256(body))] = body, body
			w.WriteHeader(http.StatusCreated)
			return
		}
		if body, ok := indexes[ref]; ok {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Docker-Content-Digest", fmt.Sprintf("sha256:%x", sha256.Sum256(body)))
			w.Write(body)
			return
		}
		plain.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// indexOf is what a registry serves of an image for several platforms.
func indexOf(t *testing.T, platforms ...string) (v1.ImageIndex, map[string]string) {
	t.Helper()
	var index v1.ImageIndex = empty.Index
	digests := map[string]string{}
	for _, p := range platforms {
		img, err := random.Image(5_000, 2)
		if err != nil {
			t.Fatal(err)
		}
		platform, err := v1.ParsePlatform(p)
		if err != nil {
			t.Fatal(err)
		}
		digests[p] = digestOf(t, img)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: platform}})
	}
	return index, digests
}

func TestFetchIndex(t *testing.T) {
	alone(t)
	u := newUpstream(t)
	here := "linux/" + runtime.GOARCH
	index, digests := indexOf(t, "linux/s390x", here, "windows/amd64")
	p := u.push(t, index)
	r := newRegistries(t, RegistryOptions{CABundle: u.ca})
	built, err := r.Fetch(t.Context(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	if blobs, _ := filepath.Glob(filepath.Join(built.Layout, "blobs", "sha256", "*")); len(blobs) != 1+1+1+2 {
		t.Errorf("%d blobs: more than the index and this platform's image", len(blobs))
	}
	mirror := sparseMirror(t)
	if err := Push(t.Context(), inMirror(mirror), built); err != nil {
		t.Fatal(err)
	}
	ref, _ := name.NewDigest(mirror+"/app@"+built.Digest, name.Insecure)
	img, err := remote.Image(ref, remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
	if err != nil {
		t.Fatal(err)
	}
	if d := digestOf(t, img); d != digests[here] {
		t.Errorf("the mirror gives %s, want %s", d, digests[here])
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}

	// A layout that nobody pulled into, as of a bundle.
	if err := os.RemoveAll(filepath.Join(built.Layout, "keys")); err != nil {
		t.Fatal(err)
	}
	again := sparseMirror(t)
	if err := Push(t.Context(), inMirror(again), built); err != nil || !Pushed(t.Context(), inMirror(again), built) {
		t.Errorf("an index without a record: %v", err)
	}

	foreign, _ := indexOf(t, "linux/s390x", "windows/amd64")
	_, err = r.Fetch(t.Context(), u.push(t, foreign), nil)
	if !errors.Is(err, ErrNotReachable) || !strings.Contains(err.Error(), "nothing for "+here+", only for linux/s390x, windows/amd64") {
		t.Errorf("no image for this platform: %v", err)
	}
}

// What is attached to an image comes with it, into the layout and to the mirror.
func TestFetchReferrers(t *testing.T) {
	alone(t)
	u := newUpstream(t)
	raw, err := u.image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	h, err := v1.NewHash(digestOf(t, u.image))
	if err != nil {
		t.Fatal(err)
	}
	attached, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), "application/vnd.example.signature"),
		static.NewLayer([]byte("signed"), "application/vnd.example.signature"))
	if err != nil {
		t.Fatal(err)
	}
	subject := mutate.Subject(attached, v1.Descriptor{MediaType: types.DockerManifestSchema2, Digest: h, Size: int64(len(raw))}).(v1.Image)
	u.push(t, subject)
	r := newRegistries(t, RegistryOptions{CABundle: u.ca})
	built, err := r.Fetch(t.Context(), u.pull(t, u.image), nil)
	if err != nil {
		t.Fatal(err)
	}
	mirror, _ := counting(t)
	if err := Push(t.Context(), inMirror(mirror), built); err != nil {
		t.Fatal(err)
	}
	ref, _ := name.NewDigest(mirror+"/app@"+built.Digest, name.Insecure)
	index, err := remote.Referrers(ref)
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil || len(list.Manifests) != 1 || list.Manifests[0].Digest.String() != digestOf(t, subject) {
		t.Errorf("the mirror lists %+v, %v", list, err)
	}
}

func TestFetchTrouble(t *testing.T) {
	alone(t)
	blob := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }
	manifest := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/sha256:") }
	status := func(code int, which func(*http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if which(r) {
				w.WriteHeader(code)
			}
			return which(r)
		}
	}
	all := func(*http.Request) bool { return true }
	body := func(which func(*http.Request) bool, change func([]byte) []byte) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !which(r) || r.Method != http.MethodGet {
				return false
			}
			w.Write(change([]byte(`{"schemaVersion":2}`)))
			return true
		}
	}
	for _, tt := range []struct {
		name    string
		trouble func(http.ResponseWriter, *http.Request) bool
		probed  bool // the probe finds out
		want    error
		says    string
	}{
		{"401", status(http.StatusUnauthorized, manifest), true, ErrNotReachable, "answers 401 Unauthorized: log in with docker login"},
		{"401 for all", status(http.StatusUnauthorized, all), true, ErrNotReachable, "401"},
		{"403", status(http.StatusForbidden, manifest), true, ErrNotReachable, "403 Forbidden"},
		{"403 of a blob", status(http.StatusForbidden, blob), false, ErrNotReachable, "403 Forbidden"},
		{"404", status(http.StatusNotFound, manifest), true, ErrNotReachable, "does not have it (404)"},
		{"404 of a blob", status(http.StatusNotFound, blob), false, ErrNotReachable, "does not have it (404)"},
		{"500", status(http.StatusInternalServerError, manifest), true, ErrNotReachable, "answers 500 Internal Server Error"},
		{"503 of a blob", status(http.StatusServiceUnavailable, blob), false, ErrNotReachable, "answers 503"},
		{"another manifest", body(manifest, func(b []byte) []byte { return b }), false, ErrWrongContent, "came as sha256:"},
		{"another blob", body(blob, func(b []byte) []byte { return b }), false, ErrWrongContent, "came as sha256:"},
		{"endless manifest", body(manifest, func([]byte) []byte { return make([]byte, oci.MaxManifest+1) }), false, ErrWrongContent, "more than"},
		{"longer blob", body(blob, func([]byte) []byte { return make([]byte, 1<<20) }), false, ErrWrongContent, "came as sha256:"},
		{"stall before the answer", func(w http.ResponseWriter, r *http.Request) bool {
			if manifest(r) {
				<-r.Context().Done()
			}
			return manifest(r)
		}, true, ErrNotReachable, "no answer in time"},
		{"stall within a blob", func(w http.ResponseWriter, r *http.Request) bool {
			if !blob(r) {
				return false
			}
			w.Header().Set("Content-Length", "20000")
			w.Write([]byte("half"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}, false, ErrNotReachable, "no answer in time"},
		{"hangs up", func(w http.ResponseWriter, r *http.Request) bool {
			if blob(r) {
				panic(http.ErrAbortHandler)
			}
			return false
		}, false, ErrNotReachable, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := newUpstream(t)
			u.trouble = tt.trouble
			o := RegistryOptions{CABundle: u.ca}
			if strings.Contains(tt.says, ErrNoAnswer.Error()) {
				o.DialTimeout, o.StallTimeout = time.Second, 500*time.Millisecond
			}
			r := newRegistries(t, o)
			p := u.pull(t, u.image)
			start := time.Now()
			err := r.Probe(t.Context(), []string{p.Reference})[p.Reference]
			if (err != nil) != tt.probed || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("probe: %v", err)
			}
			if _, err := r.Fetch(t.Context(), p, nil); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "image "+p.Reference) {
				t.Errorf("fetch: %v", err)
			}
			if took := time.Since(start); took > 15*time.Second {
				t.Errorf("took %s", took)
			}
			if _, ok := r.Cached(p); ok {
				t.Error("what did not come whole is cached")
			}
			if half, _ := filepath.Glob(filepath.Join(r.layout.dir, ".blob-*")); len(half) > 0 {
				t.Errorf("left behind: %q", half)
			}
			blobs, _ := filepath.Glob(filepath.Join(r.layout.dir, "blobs", "sha256", "*"))
			for _, b := range blobs {
				if sum, err := disk.SHA256(b); err != nil || sum != filepath.Base(b) {
					t.Errorf("the store holds %s under %s (%v)", sum, filepath.Base(b), err)
				}
			}
			// Well again: nothing that went wrong stays.
			u.trouble = nil
			patient := newRegistries(t, RegistryOptions{CacheDir: filepath.Dir(r.layout.dir), CABundle: u.ca})
			if _, err := patient.Fetch(t.Context(), p, nil); err != nil {
				t.Errorf("well again: %v", err)
			}
		})
	}
}

// A server in trouble for a moment is asked again, and whole blobs are not pulled twice.
func TestFetchGoesOn(t *testing.T) {
	alone(t)
	u := newUpstream(t)
	var blobs, failed atomic.Int32
	u.trouble = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		if blobs.Add(1) == 2 {
			failed.Add(1)
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		return false
	}
	r := newRegistries(t, RegistryOptions{CABundle: u.ca})
	p := u.pull(t, u.image)
	if _, err := r.Fetch(t.Context(), p, nil); err != nil || failed.Load() != 1 || blobs.Load() != 5 { // 4 blobs, one twice
		t.Errorf("%v after %d requests for blobs, %d of them refused", err, blobs.Load(), failed.Load())
	}
	if err := os.Remove(r.layout.record(strings.TrimPrefix(digestOf(t, u.image), "sha256:"))); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Fetch(t.Context(), p, nil); err != nil || blobs.Load() != 5 {
		t.Errorf("%v; %d blobs pulled again", err, blobs.Load()-5)
	}
}

func TestFetchNowhere(t *testing.T) {
	alone(t)
	digest := "@sha256:" + strings.Repeat("0", 64)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	r := newRegistries(t, RegistryOptions{})
	refs := map[string]string{
		closed.Addr().String() + "/a" + digest: "connection refused",
		"registry.invalid/a" + digest:          "registry.invalid",
	}
	var list []string
	for ref := range refs {
		list = append(list, ref)
	}
	for ref, err := range r.Probe(t.Context(), list) {
		if !errors.Is(err, ErrNotReachable) || !strings.Contains(err.Error(), refs[ref]) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", ref, err, refs[ref])
		}
	}
	if len(list) != len(r.Probe(t.Context(), list)) {
		t.Error("a reference without an answer")
	}
}

// A registry that takes connections and says nothing holds nobody beyond the context.
func TestProbeIsBounded(t *testing.T) {
	alone(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	r := newRegistries(t, RegistryOptions{DialTimeout: 5 * time.Second, StallTimeout: 30 * time.Second})
	var refs []string
	for i := range 40 {
		refs = append(refs, fmt.Sprintf("%s/a%d@sha256:%064d", silent.Addr(), i, 0))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	found := r.Probe(ctx, refs)
	if took := time.Since(start); took > 1500*time.Millisecond {
		t.Errorf("took %s", took)
	}
	for _, ref := range refs {
		if err := found[ref]; !errors.Is(err, ErrNotReachable) || !strings.Contains(err.Error(), "no answer in time") {
			t.Fatalf("%s: %v", ref, err)
		}
	}
}

func TestFetchCredentials(t *testing.T) {
	alone(t)
	u := newUpstream(t)
	u.trouble = func(w http.ResponseWriter, r *http.Request) bool {
		if who, password, ok := r.BasicAuth(); ok && who == "ada" && password == "secret" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	p := u.pull(t, u.image)
	fetch := func(password string) error {
		dir := t.TempDir()
		t.Setenv("DOCKER_CONFIG", dir)
		if password != "" {
			auth := base64.StdEncoding.EncodeToString([]byte("ada:" + password))
			config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, u.address, auth)
			if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := newRegistries(t, RegistryOptions{CABundle: u.ca}).Fetch(t.Context(), p, nil)
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the password: %v", err)
		}
		return err
	}
	for password, ok := range map[string]bool{"": false, "wrong": false, "secret": true} {
		if err := fetch(password); ok != (err == nil) || !ok && !strings.Contains(err.Error(), "401 Unauthorized: log in") {
			t.Errorf("with password %q: %v", password, err)
		}
	}
}

// Behind a proxy, the name of the registry is the proxy's to resolve.
func TestFetchProxy(t *testing.T) {
	alone(t)
	u := newUpstream(t)
	var asked atomic.Value
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Method + " " + r.Host)
		if r.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		there, err := net.Dial("tcp", u.address)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer there.Close()
		here, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer here.Close()
		io.WriteString(here, "HTTP/1.1 200 Connection established\r\n\r\n")
		go io.Copy(there, here)
		io.Copy(here, there)
	}))
	defer proxy.Close()
	p := u.pull(t, u.image)
	p.Reference = "example.com/acme/app@" + digestOf(t, u.image) // a name that the test server's certificate is for
	t.Setenv("HTTPS_PROXY", proxy.URL)
	r := newRegistries(t, RegistryOptions{CABundle: u.ca})
	if _, err := r.Fetch(t.Context(), p, nil); err != nil {
		t.Error(err)
	}
	if asked.Load() != "CONNECT example.com:443" {
		t.Errorf("the proxy was asked %v", asked.Load())
	}
	// Nobody has said that this registry's authority is to be trusted.
	_, err := newRegistries(t, RegistryOptions{}).Fetch(t.Context(), p, nil)
	if !errors.Is(err, ErrNotReachable) || !strings.Contains(err.Error(), "unknown authority: images.caBundle") {
		t.Errorf("no CA bundle: %v", err)
	}
	proxy.Close()
	_, err = newRegistries(t, RegistryOptions{CABundle: u.ca}).Fetch(t.Context(), p, nil)
	if !errors.Is(err, ErrNotReachable) || !strings.Contains(err.Error(), "proxyconnect") {
		t.Errorf("no proxy: %v", err)
	}
}

func TestCABundle(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.pem")
	if err := os.WriteFile(garbage, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		filepath.Join(dir, "none.pem"): "images.caBundle: there is no file",
		garbage:                        "holds no certificate in PEM form",
		dir:                            "images.caBundle: read",
	} {
		if _, err := NewRegistries(RegistryOptions{CacheDir: dir, CABundle: file}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", file, err, want)
		}
	}
}

// A damaged blob is found before it is sent, and pulled again.
func TestPushDamagedPull(t *testing.T) {
	alone(t)
	u := newUpstream(t)
	r := newRegistries(t, RegistryOptions{CABundle: u.ca})
	p := u.pull(t, u.image)
	built, err := r.Fetch(t.Context(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := u.image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if err := buildtest.Flip(r.layout.blob(m.Layers[1].Digest), true); err != nil {
		t.Fatal(err)
	}
	mirror, writes := counting(t)
	if err := Push(t.Context(), inMirror(mirror), built); !errors.Is(err, errCorrupt) || writes.Load() != 0 {
		t.Errorf("damaged: %v, %d writes", err, writes.Load())
	}
	if built, err = r.Fetch(t.Context(), p, nil); err != nil {
		t.Fatal(err)
	}
	if err := Push(t.Context(), inMirror(mirror), built); err != nil {
		t.Error(err)
	}
}

// What is pulled goes when nobody wants it any more, and what others share stays.
func TestPrunePulled(t *testing.T) {
	alone(t)
	u := newUpstream(t)
	r := newRegistries(t, RegistryOptions{CABundle: u.ca})
	index, _ := indexOf(t, "linux/"+runtime.GOARCH)
	kept, gone := u.push(t, index), u.pull(t, u.image) // of one name and version
	for _, p := range []Pull{gone, kept} {
		if _, err := r.Fetch(t.Context(), p, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := r.Cached(gone); !ok {
		t.Error("a pull removed what another one may still push")
	}
	var p Pruned
	keep := []string{digestOf(t, index)}
	if err := r.Prune(t.Context(), &p, keep, true); err != nil || p.Bytes != 0 {
		t.Errorf("a dry run: %+v, %v", p, err)
	}
	if err := r.Prune(t.Context(), &p, keep, false); err != nil || p.Bytes < 20_000 {
		t.Errorf("%+v, %v", p, err)
	}
	_, here := r.Cached(kept)
	_, there := r.Cached(gone)
	if !here || there {
		t.Errorf("kept %v, gone %v", here, !there)
	}
	if err := r.Prune(t.Context(), &p, nil, false); err != nil || len(p.Images) != 1 {
		t.Errorf("all of it: %+v, %v", p, err)
	}
	if blobs, _ := filepath.Glob(filepath.Join(r.layout.dir, "blobs", "sha256", "*")); len(blobs) > 0 {
		t.Errorf("left: %q", blobs)
	}
}

// Credentials do not go in the clear to a registry at a private address, whatever answers there.
func TestNoPasswordInTheClear(t *testing.T) {
	var clear atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		clear.Add(1)
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s %s came with a password", r.Method, r.URL)
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(server.Close)
	for _, host := range []string{"10.1.2.3:5000", "192.168.7.7", "172.16.0.9:80", "registry.local:5000", "registry.example"} {
		r, err := NewRegistries(RegistryOptions{CacheDir: t.TempDir(), Keychain: anyone{}})
		if err != nil {
			t.Fatal(err)
		}
		r.transport.Proxy = nil
		r.transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", server.Listener.Addr().String())
		}
		ref := host + "/app@sha256:" + strings.Repeat("0", 64)
		if err := r.Probe(t.Context(), []string{ref})[ref]; !errors.Is(err, ErrNotReachable) {
			t.Errorf("%s: %v", host, err)
		}
		if err := (Published{r, host}).Push(t.Context(), Built{Name: "app", Version: "v1", Digest: ref[strings.Index(ref, "@")+1:]}); err == nil {
			t.Errorf("%s: pushed", host)
		}
		r.Close()
	}
	if n := clear.Load(); n > 0 {
		t.Errorf("%d requests in the clear", n)
	}
}

// anyone has a password for every registry.
type anyone struct{}

func (anyone) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: "me", Password: "secret"}, nil
}
