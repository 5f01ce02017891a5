package e2e

import (
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/sign"
)

// pulledImage is the one that TestUntrustedRegistry has pulled rather than built.
const pulledImage = "local-path"

// TestUntrustedRegistry: an image of the catalogue's own that a registry has, with the lock's
// digest, is not deployed as long as nobody trusted signed it; and is, once somebody did.
func TestUntrustedRegistry(t *testing.T) {
	e := newEnvironment(t, "pull", "servers: 1\nagents: 0\nnetwork: {plugin: ptp}\ncomponents: [local-path]\n")
	built := decode[[]struct{ Name, Digest string }](t, lastJSON(e.run(t, "images", "build", pulledImage, "-o", "json")))
	docs := sign.Documents{
		SBOM:       []byte(e.run(t, "images", "sbom", pulledImage)),
		Provenance: []byte(e.run(t, "images", "provenance", pulledImage)),
	}
	cache := cacheWithout(t, pulledImage)

	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	address := strings.TrimPrefix(server.URL, "http://")
	hash, err := v1.NewHash(built[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	img, err := layout.Path(filepath.Join(sharedCache(), "images")).Image(hash)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(address+"/acme/"+pulledImage+":v1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ORRERY_CACHE_DIR", cache)
	dir := t.TempDir()
	yaml := func(more string) {
		t.Helper()
		if err := e.write(dir, "servers: 1\nagents: 0\nnetwork: {plugin: ptp}\ncomponents: [local-path]\nimages:\n  sources: [registry, source]\n  registry: "+address+"/acme\n"+more); err != nil {
			t.Fatal(err)
		}
	}
	key := func(name string) *sign.Key {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		k, err := sign.EnsureKey(t.Context(), filepath.Join(dir, name), sign.Passwords{Given: "of this test"})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	refused := func(says ...string) {
		t.Helper()
		// What was pulled before with less attached to it is not what the registry has now.
		if err := os.RemoveAll(filepath.Join(cache, "pulled")); err != nil {
			t.Fatal(err)
		}
		r := e.try(t, "up", "-o", "json")
		if r.code == 0 {
			t.Fatalf("it was deployed: %v", r)
		}
		for _, text := range says {
			if !strings.Contains(r.stderr, text) {
				t.Errorf("the refusal does not say %q: %v", text, r)
			}
		}
		if _, err := os.Stat(e.state()); err == nil {
			t.Errorf("a refused image left %s behind", e.state())
		}
	}
	yaml("")
	refused("image/"+pulledImage, "unsigned", "images.trustedKeys")

	trusted, other := key("trusted"), key("other")
	if err := sign.Attach(t.Context(), mirror.Mirror{Address: address}, "acme/"+pulledImage, built[0].Digest, other, docs); err != nil {
		t.Fatal(err)
	}
	yaml("  trustedKeys: [trusted/cosign.pub]\n")
	refused("image/"+pulledImage, "wrong key", other.Public().Fingerprint())

	if err := sign.Attach(t.Context(), mirror.Mirror{Address: address}, "acme/"+pulledImage, built[0].Digest, trusted, docs); err != nil {
		t.Fatal(err)
	}
	yaml("  trustedKeys: [trusted/cosign.pub]\n  builders: ['https://example.org/ci']\n")
	refused("by another builder", "images.builders") // the nodes' programs are this machine's

	yaml("  trustedKeys: [trusted/cosign.pub]\n")
	if err := os.RemoveAll(filepath.Join(cache, "pulled")); err != nil {
		t.Fatal(err)
	}
	e.run(t, "up", "--skip-verify", "-o", "json")
	rows := decode[[]struct{ Name, From, Signed string }](t, lastJSON(e.run(t, "images", "list", "-o", "json")))
	for _, row := range rows {
		if row.Name == pulledImage && (row.From != "registry" || row.Signed != "yes") {
			t.Errorf("%+v", row)
		}
	}
	e.run(t, "images", "verify")
	e.run(t, "down")
	e.audit(t)
}

// sharedCache is that of all environments here.
func sharedCache() string {
	if dir := os.Getenv("ORRERY_CACHE_DIR"); dir != "" {
		return dir
	}
	return "/var/cache/orrery"
}

// cacheWithout is a cache with all programs that are compiled, but for one, and no images.
// Where the state is on the file system of the cache they are links.
func cacheWithout(t *testing.T, program string) string {
	t.Helper()
	dir := filepath.Join(stateDir, "..", "cache-without-"+program)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	entries, err := os.ReadDir(filepath.Join(sharedCache(), "bin"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		from := filepath.Join(sharedCache(), "bin", entry.Name())
		data, err := os.ReadFile(filepath.Join(from, "manifest.json"))
		var m struct{ Name string }
		if err != nil || json.Unmarshal(data, &m) != nil || m.Name == program {
			continue
		}
		to := filepath.Join(dir, "bin", entry.Name())
		if exec.Command("cp", "-al", from, to).Run() != nil {
			_ = os.RemoveAll(to)
			if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
				t.Fatalf("copy the cache: %v\n%s", err, out)
			}
		}
	}
	return dir
}
