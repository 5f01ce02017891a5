package environment

import (
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/orrery-dev/orrery/internal/kube/kubetest"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
)

// shared has the small platform go to a cluster that somebody else made, out of a registry of
// the person's. With api it lists what refers to an image.
func (s *small) shared(api bool) {
	s.t.Helper()
	cluster := kubetest.New(s.t)
	cluster.SetNodes([]kubetest.Node{{Name: "n1", Labels: map[string]string{"topology.kubernetes.io/zone": "a"}, Ready: true, Server: true}})
	kubeconfig := filepath.Join(filepath.Dir(s.file), "theirs")
	if err := os.WriteFile(kubeconfig, cluster.Kubeconfig(), 0o600); err != nil {
		s.t.Fatal(err)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(api)))
	s.t.Cleanup(server.Close)
	text := fmt.Sprintf("apiVersion: orrery.dev/v1alpha1\nkind: Environment\nname: small\ndriver: %s\nexisting: {kubeconfig: %s, context: test}\n"+
		"overlay: local\nimages: {registry: %s/acme}\n", spec.DriverExisting, kubeconfig, strings.TrimPrefix(server.URL, "http://"))
	if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// push is what `images push` does. It says who signed.
func (s *small) push(p *Platform) (signer string) {
	s.t.Helper()
	var key *sign.Key
	for _, img := range p.Parts.Images {
		_, signed, err := p.Supply.Publish(s.t.Context(), img, func() (k *sign.Key, err error) {
			key, err = s.request.Machine().Key(s.t.Context(), "", p.Spec.Images)
			return key, err
		})
		if err != nil || !signed {
			s.t.Fatalf("push %s: %v, %v", img.Name, signed, err)
		}
	}
	return key.Public().Fingerprint()
}

// What is in images.registry is signed by the machine, whose key outlives the environment, and is
// read back from there.
func TestImagesOfAnExistingCluster(t *testing.T) {
	for name, api := range map[string]bool{"referrers API": true, "referrers by tag": false} {
		t.Run(name, func(t *testing.T) {
			s := newSmall(t)
			s.shared(api)
			t.Setenv("ORRERY_KEY_PASSWORD", "") // the kernel's keyring keeps one, as a person's does
			t.Cleanup(func() { _ = sign.Forget(string(s.request.Machine())) })
			p := s.open(Selection{})
			defer p.Close()
			verify := func() (ok, all int, errs []error) {
				t.Helper()
				policy, err := p.Keys.Policy(p.Supply.Locked)
				if err != nil {
					t.Fatal(err)
				}
				policy.Thorough = true
				var names []string
				for name := range p.Parts.Images {
					names = append(names, name)
				}
				reports, errs, err := p.VerifyImages(t.Context(), names, policy)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range reports {
					if r.OK() && len(r.Checks) == 5 {
						ok++
					}
				}
				return ok, len(reports), errs
			}
			if ok, all, errs := verify(); ok > 0 || all == 0 || len(errs) < all {
				t.Errorf("of an empty registry: %d of %d, %v", ok, all, errs)
			}
			signer := s.push(p)
			if ok, all, errs := verify(); ok != all || len(errs) > 0 {
				t.Errorf("pushed: %d of %d, %v", ok, all, errs)
			}
			if _, err := p.Mirror(); err == nil || !strings.Contains(err.Error(), "orrery images push") {
				t.Errorf("a mirror: %v", err)
			}
			planned, err := p.Plan(t.Context(), true)
			if err == nil {
				_, err = p.Apply(t.Context(), planned, false)
			}
			if err != nil {
				t.Fatal(err)
			}
			if leaks, err := p.Remove(t.Context()); err != nil || len(leaks) > 0 {
				t.Fatalf("down: %v, %v", leaks, err)
			}
			again := s.open(Selection{})
			defer again.Close()
			if now := s.push(again); now != signer {
				t.Errorf("signed by %s, before 'down' by %s", now, signer)
			}
		})
	}
}
