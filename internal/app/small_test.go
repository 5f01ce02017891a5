package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/orrery-dev/orrery/internal/bundle/bundletest"
)

// edit changes a file of the repository.
func (s *small) edit(file, old, now string) {
	s.t.Helper()
	file = filepath.Join(s.platform.Root, file)
	text, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		s.t.Fatalf("%s: no %q", file, old)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), old, now, 1)), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// needsForeign has the shop need an image that no source has.
func (s *small) needsForeign() {
	s.edit("infra/k8s/base/shop/component.yaml", "images:\n",
		"images:\n  - name: foreign\n    version: v1\n    registry: 127.0.0.1:1/foreign@sha256:"+strings.Repeat("0", 64)+"\n")
}

// What somebody deletes behind Orrery's back is seen by every verb that looks, and made again.
func TestLost(t *testing.T) {
	s := newSmall(t)
	s.up()
	s.want(exitOK, "diff")
	secret := func() map[string]any {
		t.Helper()
		o := s.cluster.API.Get("v1", "Secret", "shop", "shop-password")
		if o == nil {
			t.Fatal("there is no Secret")
		}
		return o.Object["data"].(map[string]any)
	}
	lose := func() {
		o := s.cluster.API.Get("v1", "Secret", "shop", "shop-password")
		o.Object["data"] = map[string]any{}
		s.cluster.API.Put(o)
	}
	for _, again := range []string{"up", "deploy shop"} {
		lose()
		s.want(exitFailed, "diff", "# change Secret shop/shop-password", "password: <redacted>")
		s.want(exitOK, again)
		if secret()["password"] == nil {
			t.Errorf("%s did not make it again", again)
		}
		s.want(exitOK, "diff")
		s.want(exitOK, "up", "nothing to do")
	}
	for _, again := range []string{"up", "deploy shop"} {
		for _, b := range s.platform.Images {
			if b.Name != "shop" {
				continue
			}
			for _, at := range []string{":" + b.Version, "@" + b.Digest} {
				ref, err := name.ParseReference(s.cluster.Registry()+"/shop"+at, name.Insecure)
				if err == nil {
					err = remote.Delete(ref)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		s.want(exitFailed, "images verify shop")
		s.want(exitOK, again)
		s.want(exitOK, "images verify shop", "0 not")
	}
}

// The verbs about what a platform is made of, out of the bundle and out of the repository.
func TestSmallSupply(t *testing.T) {
	s := newSmall(t)
	bundle, key := s.platform.Bundle, s.platform.Key
	s.want(exitRefused, "bundle import "+bundle, "which nobody here trusts")
	s.want(exitOK, "bundle inspect "+bundle, "program  registry", "not trusted here")
	s.want(exitOK, "bundle diff "+bundle, "are to be fetched")
	s.want(exitOK, "bundle import "+bundle+" --key "+key, "imported sha256:")
	s.want(exitOK, "bundle import "+bundle, "is imported already")
	s.want(exitOK, "bundle diff "+bundle, "0.0 MB of")
	s.want(exitOK, "bundle distrust "+bundle, "no longer trusted by its digest: sha256:")
	s.want(exitRefused, "bundle import "+bundle, "which nobody here trusts")

	at := " --catalog " + s.platform.Root
	s.want(exitOK, "images build"+at, "registry.orrery.internal/shop:v0.1.0@sha256:", "/pause:1@")
	s.want(exitOK, "programs list"+at, "registry")
	s.want(exitOK, "lock --check"+at, "are as locked")
	s.want(exitOK, "bundle create again.orrery"+at, "again.orrery: 3 images, 1 programs")
	s.want(exitOK, "bundle inspect again.orrery", "(trusted)", "image    shop", "program  registry")
	core := append(bundletest.Environment("small", "fake"), "profile: core\n"...)
	if err := os.WriteFile("core.yaml", core, 0o600); err != nil {
		t.Fatal(err)
	}
	s.want(exitOK, "bundle create core.orrery -f core.yaml"+at, "core.orrery: 2 images, 1 programs") // without the shop
	s.want(exitUsage, "images inspect nothing"+at, `there is no image "nothing"`)

	// A repository that is not as locked makes no bundle.
	s.edit("apps/shop/main.go", "func main() {}", "func main() { println() }")
	s.want(exitFailed, "lock --check"+at, "shop")
	s.want(exitRefused, "bundle create drifted.orrery"+at, "shop")
	if _, err := os.Stat("drifted.orrery"); !os.IsNotExist(err) {
		t.Errorf("it is there: %v", err)
	}

	// Out of a bundle, documents are those that came in it, and nothing is signed anew.
	s.up()
	s.want(exitOK, "images inspect shop", "shop:v0.1.0", "platform", "layer 0")
	s.want(exitOK, "images sbom shop", "CycloneDX")
	s.want(exitOK, "programs list", "registry")
	s.want(exitUsage, "images sign", "is made from a bundle, whose documents came with it")
}
