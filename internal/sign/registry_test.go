package sign

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/oci"
	"github.com/orrery-dev/orrery/internal/sbom"
)

// interfered is a registry for one test, in whose storage one can interfere.
type interfered struct {
	address string
	writes  atomic.Int32
	// lie, when not nil, may answer a request in place of the registry.
	lie func(w http.ResponseWriter, r *http.Request) bool
}

// newMirror without api has no referrers API, as distribution has none.
func newMirror(t *testing.T, api bool) *interfered {
	t.Helper()
	m := &interfered{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(api))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.lie != nil && m.lie(w, r) {
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			m.writes.Add(1)
		}
		inner.ServeHTTP(w, r)
	}))
	m.address = strings.TrimPrefix(server.URL, "http://")
	t.Cleanup(server.Close)
	return m
}

// newDistribution is the registry of the node distribution, as a mirror of an environment
// runs it.
func newDistribution(t *testing.T) string {
	t.Helper()
	dist := os.Getenv("ORRERY_TEST_DIST")
	if dist == "" {
		t.Skip("ORRERY_TEST_DIST is not set: it names the folder of the built node distribution")
	}
	dir := t.TempDir()
	for port := 40000 + os.Getpid()%20000; ; port++ {
		address := fmt.Sprintf("127.0.0.1:%d", port)
		config := filepath.Join(dir, "registry.yaml")
		text := fmt.Sprintf("version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %s}\n  delete: {enabled: true}\n  cache: {blobdescriptor: inmemory}\nhttp: {addr: %q}\n", filepath.Join(dir, "data"), address)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(dist, "registry"), "serve", config)
		cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		deadline := time.After(20 * time.Second)
		for up := false; !up; {
			select {
			case <-deadline:
				t.Fatal("the registry does not answer")
			case <-ended: // the port was taken
				up = true
				cmd = nil
			case <-time.After(20 * time.Millisecond):
				resp, err := http.Get("http://" + address + "/v2/")
				if err == nil {
					_ = resp.Body.Close()
					up = true
				}
			}
		}
		if cmd == nil {
			continue
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			<-ended
		})
		return address
	}
}

const (
	imageName    = "hello"
	imageVersion = "v1.2.3"
)

// published is an image in a mirror, with what the lock says and its documents.
type published struct {
	address string
	image   v1.Image
	digest  string
	docs    Documents
	locked  *lock.Platform
}

// publish pushes an image that nobody signed.
func publish(t testing.TB, address string) published {
	t.Helper()
	img, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(address+"/"+imageName+":"+imageVersion, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	p := published{address: address, image: img, digest: digest.String()}
	p.docs, p.locked = documents(t, p.digest)
	return p
}

const someSum = "h1:Khu2En+0gcYPZ2kuIihfswbzxv/mIHXgzPZ018Oty48="

// documents are those that internal/sbom makes, and the lock's entry.
func documents(t testing.TB, digest string) (Documents, *lock.Platform) {
	t.Helper()
	in := image.Inspection{
		Built:    image.Built{Name: imageName, Version: imageVersion, Digest: digest},
		Platform: "linux/amd64", User: "0",
		Programs: []build.ProgramInfo{{
			Path: "/hello", Package: "example.org/hello", Go: "go1.26.8", Main: build.Module{Path: "example.org/hello", Version: imageVersion, Sum: someSum},
			Modules: []build.Module{{Path: "example.org/Dep", Version: "v0.1.0+incompatible", Sum: someSum}},
		}},
	}
	bom, err := sbom.CycloneDX(in, map[string]string{"example.org/hello": "MIT"})
	if err != nil {
		t.Fatal(err)
	}
	locked := &lock.Platform{
		Binaries: map[string]lock.Binary{"hello": {
			Module: "example.org/hello@" + imageVersion, Sum: someSum, Package: "example.org/hello", Go: "go1.26.8",
			Flags: []string{"-trimpath"}, Pins: "sha256:" + strings.Repeat("c", 64), Tree: "sha256:" + strings.Repeat("d", 64), SHA256: strings.Repeat("e", 64),
		}},
		Images: map[string]lock.Image{imageName: {Version: imageVersion, Binaries: []string{"hello"}, User: "0", Digest: digest, SBOM: digestOf(bom)}},
	}
	statement, err := sbom.Provenance(sbom.Source{
		Image: in, Entry: locked.Images[imageName], Binaries: locked.Binaries, ToolchainVersion: "go1.26.8", ToolchainSum: someSum,
	})
	if err != nil {
		t.Fatal(err)
	}
	return Documents{SBOM: bom, Provenance: statement}, locked
}

// policy of an environment whose own key is k.
func (p published) policy(keys ...*Key) Policy {
	policy := Policy{Locked: p.locked}
	for _, k := range keys {
		policy.Keys = append(policy.Keys, k.Public())
	}
	return policy
}

func (p published) mirror() mirror.Mirror { return mirror.Mirror{Address: p.address} }

func (p published) repository(t *testing.T) repository {
	t.Helper()
	r, err := openRepository(t.Context(), p.mirror(), imageName, true)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// attachRaw signs any statement and attaches it, beside what is attached.
func (p published) attachRaw(t *testing.T, k *Key, predicateType string, payload []byte) {
	t.Helper()
	r := p.repository(t)
	raw, err := r.manifest(t.Context(), p.digest)
	if err != nil {
		t.Fatal(err)
	}
	subject := oci.Describe(types.OCIManifestSchema1, raw)
	d, err := r.put(t.Context(), k, &wanted{predicateType: predicateType, payload: payload}, &subject)
	if err != nil {
		t.Fatal(err)
	}
	list, byTag, err := r.referrers(t.Context(), p.digest)
	if err != nil {
		t.Fatal(err)
	}
	if byTag {
		data, _ := json.Marshal(oci.Index{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: append(list, d)})
		if err := r.putManifest(t.Context(), oci.ReferrersTag(p.digest), types.OCIImageIndex, data); err != nil {
			t.Fatal(err)
		}
	}
}

// testKey makes a key pair in a folder of its own. Its password is "test".
func testKey(t testing.TB) (k *Key, dir string) {
	t.Helper()
	dir = t.TempDir()
	k, err := EnsureKey(t.Context(), dir, Passwords{Given: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return k, dir
}

// anyKey is a key pair without files, which takes no time to make.
func anyKey(t testing.TB) *Key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := publicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return &Key{public: public, open: func() (*ecdsa.PrivateKey, error) { return private, nil }}
}

// FuzzRegistry has a mirror answer anything: nothing of that is signed by the trusted key.
func FuzzRegistry(f *testing.F) {
	key := anyKey(f).Public()
	var list, manifest, blob []byte // what the mirror answers; fuzzing runs one at a time in a process
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "/referrers/"):
			_, _ = w.Write(list)
		case strings.Contains(r.URL.Path, "/manifests/"):
			_, _ = w.Write(manifest)
		default:
			_, _ = w.Write(blob)
		}
	}))
	f.Cleanup(server.Close)
	attached := `{"artifactType":"` + bundleType + `","config":{"size":2,"digest":"` + oci.Empty().Digest.String() + `"},"layers":[{"mediaType":"` + bundleType + `","digest":"%s","size":2}]}`
	f.Add([]byte(`{"manifests":[]}`), []byte(`{"layers":[]}`), []byte("{}"))
	one := fmt.Sprintf(attached, digestOf([]byte("{}")))
	f.Add([]byte(`{"manifests":[{"artifactType":"`+bundleType+`","digest":"`+digestOf([]byte(one))+`","size":1}]}`), []byte(one), []byte("{}"))
	f.Fuzz(func(t *testing.T, aList, aManifest, aBlob []byte) {
		list, manifest, blob = aList, aManifest, aBlob
		p := Policy{Keys: []PublicKey{key}, Thorough: true, Foreign: true}
		r, err := Verify(t.Context(), mirror.Mirror{Address: strings.TrimPrefix(server.URL, "http://")}, "nats-server", digestOf(manifest), p)
		if err == nil || r.OK() {
			t.Errorf("accepted: %+v", r)
		}
	})
}
