package environment

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

// forget deletes an image from the mirror, by its tag and by its digest.
func (s *small) forget(image string) {
	s.t.Helper()
	at := s.cluster.Registry() + "/" + image
	for _, b := range s.platform.Images {
		if b.Name != image {
			continue
		}
		for _, ref := range []string{at + ":" + b.Version, at + "@" + b.Digest} {
			r, err := name.ParseReference(ref, name.Insecure)
			if err != nil {
				s.t.Fatal(err)
			}
			if err := remote.Delete(r); err != nil {
				s.t.Fatal(err)
			}
		}
		return
	}
	s.t.Fatalf("there is no image %s", image)
}

// change alters an object of the cluster behind everybody's back.
func (s *small) change(apiVersion, kind, namespace, name string, do func(map[string]any)) {
	s.t.Helper()
	o := s.cluster.API.Get(apiVersion, kind, namespace, name)
	if o == nil {
		s.t.Fatalf("there is no %s %s", kind, name)
	}
	do(o.Object)
	s.cluster.API.Put(o)
}

func (s *small) remove(apiVersion, kind, namespace, name string) {
	s.t.Helper()
	p := s.open(Selection{})
	defer p.Close()
	c, err := p.Kube(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if err := c.Delete(s.t.Context(), apiVersion, kind, namespace, name, 0); err != nil {
		s.t.Fatal(err)
	}
}

// Whatever of what `up` made is gone or was changed is to be done again, and nothing else is;
// then there is nothing to do.
func TestPlanSeesDrift(t *testing.T) {
	s := newSmall(t)
	all := Selection{Prune: true}
	if p := s.plan(all); !p.Fresh() || p.UpToDate() {
		t.Errorf("before anything is there: %s", changes(p))
	}
	s.mustUp(all)
	if p := s.plan(all); !p.UpToDate() || p.Fresh() {
		t.Fatalf("after up: to do %q\n%s", changes(p), s.all())
	}
	for _, c := range []struct {
		name string
		do   func()
		want string
	}{
		{"an object was changed", func() {
			s.change("v1", "ConfigMap", "shop", "shop", func(o map[string]any) {
				o["data"] = map[string]any{"greeting": "go away"}
				unstructured.RemoveNestedField(o, "metadata", "managedFields") // it is no longer ours
			})
		}, "deploy/shop"},
		{"an object was deleted", func() { s.remove("v1", "Service", "shop", "shop") }, "deploy/shop"},
		{"a generated Secret was deleted", func() { s.remove("v1", "Secret", "shop", "shop-password") }, "deploy/shop"},
		{"an entry of a generated Secret was deleted", func() {
			s.change("v1", "Secret", "shop", "shop-password", func(o map[string]any) { o["data"] = map[string]any{"other": "eA=="} })
		}, "deploy/shop"},
		{"a component's own object is gone", func() { s.remove("example.org/v1", "Planet", "shop", "jupiter") }, "deploy/planets"},
		{"an image is gone from the mirror", func() { s.forget("shop") }, "image/shop"},
		{"the sandbox is gone from the mirror", func() { s.forget("pause") }, "image/pause"},
		{"a label of a node is gone", func() {
			s.change("v1", "Node", "", "agent1", func(o map[string]any) {
				unstructured.RemoveNestedField(o, "metadata", "labels", "topology.kubernetes.io/zone")
			})
		}, "nodes"},
		{"the environment's key is gone", func() {
			if err := os.RemoveAll(filepath.Join(s.request.StateRoot, "small", "signing")); err != nil {
				t.Fatal(err)
			}
		}, "image/pause image/probe image/shop"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.do()
			if got := changes(s.plan(all)); got != c.want {
				t.Errorf("to do: %q, want %q", got, c.want)
			}
			if c.want == "nodes" { // whose labels its kubelet sets; the fake has none
				s.cluster.SetDown("agent1", false)
				return
			}
			s.mustUp(all)
			if p := s.plan(all); !p.UpToDate() {
				t.Errorf("after up: to do %q", changes(p))
			}
		})
	}
	secret := s.cluster.API.Get("v1", "Secret", "shop", "shop-password")
	if data, _, _ := unstructured.NestedStringMap(secret.Object, "data"); data["password"] == "" || data["other"] == "" {
		t.Errorf("the Secret has %v", data)
	}
}

// Without its cache, an environment that runs needs nothing that its mirror has.
func TestPlanWithoutCache(t *testing.T) {
	s := newSmall(t)
	s.configure("", "[bundle]", "[bundle, source]")
	s.mustUp(Selection{Prune: true})
	if err := os.RemoveAll(s.request.CacheDir); err != nil {
		t.Fatal(err)
	}
	if p := s.plan(Selection{Prune: true}); !p.UpToDate() {
		t.Errorf("to do: %q", changes(p))
	}
	s.forget("shop")
	// It is deployed again too: what pods name is not known until the image is.
	if got := changes(s.plan(Selection{Prune: true})); got != "build/shop image/shop deploy/shop" {
		t.Errorf("the mirror lost it: to do %q", got)
	}
	// Where orrery.yaml does not let it be compiled, it is told that nobody has it.
	s.configure("")
	if p := s.plan(Selection{Prune: true}); changes(p) != "" || p.Skipped()["shop"].Image != "shop" {
		t.Errorf("nobody has it: to do %q, skipped %v", changes(p), p.Skipped())
	}
}

// Source that is not as locked makes nothing.
func TestUpRefusesDrift(t *testing.T) {
	s := newSmall(t)
	s.edit("apps/shop/main.go", "func main() {}", "func main() { println() }")
	s.configure("", "[bundle]", "[bundle, source]")
	err := s.up(Selection{})
	if !failure.IsRefused(err) || !strings.Contains(err.Error(), "shop") || !strings.Contains(err.Error(), "orrery.lock") {
		t.Errorf("%v", err)
	}
	if calls := s.cluster.Calls(); slices.Contains(calls, "Prepare") {
		t.Errorf("the driver was asked to %v", calls)
	}
}

// What a builder made that is not trusted does not run, or is told of.
func TestUpVerifies(t *testing.T) {
	other := "images: {sources: [bundle], builders: [https://example.org/builder]"
	for verify, refused := range map[string]bool{"enforce": true, "warn": false} {
		t.Run(verify, func(t *testing.T) {
			s := newSmall(t)
			s.configure("", "images: {sources: [bundle]", other+", verify: "+verify)
			err := s.up(Selection{Prune: true})
			if !refused {
				if err != nil || !s.told(ui.TypeWarning, "images.verify is warn, so it is used nevertheless: ") {
					t.Errorf("%v\n%s", err, s.all())
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "provenance") {
				t.Errorf("%v", err)
			}
			if slices.Contains(s.cluster.Calls(), "Prepare") {
				t.Error("the mirror was started from a program that is not trusted")
			}
		})
	}
}

// What was tampered with afterwards is found: programs by their files, images in the mirror.
func TestVerifyTampered(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{Prune: true})
	p := s.open(Selection{})
	defer p.Close()
	policy, err := p.Keys.Policy(p.Supply.Locked)
	if err != nil {
		t.Fatal(err)
	}
	programs, err := p.NodeFiles(p.Catalog)
	if err != nil || len(programs) != 1 {
		t.Fatal(programs, err)
	}
	verify := func() (sign.Report, error) {
		t.Helper()
		reports, errs, err := p.VerifyPrograms(p.Catalog, programs, policy)
		if err != nil || len(reports) != 1 {
			t.Fatal(reports, err)
		}
		return reports[0], errs[0]
	}
	if r, err := verify(); err != nil || !r.OK() {
		t.Errorf("%+v, %v", r, err)
	}
	dist, err := p.Dist()
	if err != nil {
		t.Fatal(err)
	}
	if kubectl, err := p.Kubectl(); err != nil || kubectl != dist.Program("kubectl") {
		t.Errorf("%q, %v", kubectl, err)
	}
	file := dist.Program("registry")
	if err := os.Remove(file); err != nil { // a link into the cache
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("#!/bin/sh\necho evil\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r, err := verify(); err == nil || r.OK() {
		t.Errorf("a program that was replaced: %+v", r)
	}
	names := []string{"pause", "shop"}
	if reports, errs, err := p.VerifyImages(t.Context(), names, policy); err != nil || len(errs) > 0 || !reports[0].OK() || !reports[1].OK() {
		t.Errorf("%+v, %v, %v", reports, errs, err)
	}
	s.forget("shop")
	reports, errs, err := p.VerifyImages(t.Context(), names, policy)
	if err != nil || len(errs) != 1 || !reports[0].OK() || reports[1].OK() {
		t.Errorf("an image that is gone: %+v, %v, %v", reports, errs, err)
	}
	if _, errs, _ := p.VerifyImages(t.Context(), []string{"nothing"}, policy); len(errs) != 1 || !strings.Contains(errs[0].Error(), "neither built here nor locked") {
		t.Errorf("an image that nobody knows: %v", errs)
	}
}

// A component that is no longer selected leaves the cluster where all that is wanted was named,
// and only there.
func TestRemoveComponent(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{Prune: true})
	s.configure("components: [shop]\n")
	if got := changes(s.plan(Selection{})); got != "" {
		t.Errorf("without Prune: to do %q", got)
	}
	if got := changes(s.plan(Selection{Prune: true})); got != "remove/planets" {
		t.Errorf("to do: %q", got)
	}
	s.mustUp(Selection{Prune: true})
	if s.cluster.API.Get("example.org/v1", "Planet", "shop", "jupiter") != nil {
		t.Error("its objects are left")
	}
	if s.cluster.API.Get("apps/v1", "Deployment", "shop", "shop") == nil {
		t.Error("those of another are gone")
	}
	if p := s.plan(Selection{Prune: true}); !p.UpToDate() {
		t.Errorf("to do: %q", changes(p))
	}
}

// needsForeign has the shop need an image that no source has.
func (s *small) needsForeign() {
	s.edit("infra/k8s/base/shop/component.yaml", "images:\n", "images:\n  - name: foreign\n    version: v1\n    registry: 127.0.0.1:1/foreign@sha256:"+strings.Repeat("0", 64)+"\n")
}

// What cannot be had is left out with all that needs it; that is kept, told and forgotten again.
func TestSkipped(t *testing.T) {
	s := newSmall(t)
	s.needsForeign()
	for _, required := range []string{"shop", "foreign", "planets"} {
		if err := s.up(Selection{Prune: true, Require: []string{required}}); err == nil || !strings.Contains(err.Error(), required+" is required and would be skipped: ") {
			t.Errorf("%s: %v", required, err)
		}
	}
	e, err := Open(t.Context(), s.request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Platform(Selection{Require: []string{"nothing"}}); !failure.IsUsage(err) || !strings.Contains(err.Error(), "--require nothing") {
		t.Errorf("%v", err)
	}
	e.Close()

	s.mustUp(Selection{Prune: true})
	looking := s.request
	looking.Verb = ""
	if e, err = Existing(looking); err != nil {
		t.Fatal(err)
	}
	if len(e.Skipped) != 2 || e.Skipped["shop"].Image != "foreign" || e.Skipped["planets"] != e.Skipped["shop"] {
		t.Errorf("kept: %+v", e.Skipped)
	}
	st, err := e.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]ComponentState{}
	for _, c := range st.Components {
		states[c.Name] = c.State
		if c.State == ComponentSkipped && (!strings.Contains(c.Reason, "images.sources of orrery.yaml does not name registry") || c.Cause.Kind != plan.CauseUnreachable) {
			t.Errorf("%+v", c)
		}
	}
	if states["namespaces"] != ComponentReady || states["shop"] != ComponentSkipped || states["planets"] != ComponentSkipped {
		t.Errorf("%v", states)
	}
	p := s.open(Selection{})
	results, err := p.Check(t.Context(), []string{"shop"}, func(string, float64, float64) {})
	if err != nil || len(results) == 0 || results.Count(check.Skipped) != len(results) {
		t.Errorf("%+v, %v", results, err)
	}
	if !p.Lacking("shop") || p.Lacking("probe") {
		t.Error("which images are lacking")
	}
	planned, err := p.Plan(t.Context(), true)
	if err != nil || !planned.UpToDate() {
		t.Errorf("to do: %q, %v", changes(planned), err)
	}
	p.WarnSkipped(planned.Plan)
	if !s.told(ui.TypeWarning, "Skipped: shop: ") {
		t.Error(s.all())
	}
	p.Close()

	// When it can be had again it is deployed.
	s.edit("infra/k8s/base/shop/component.yaml", "  - name: foreign\n    version: v1\n    registry: 127.0.0.1:1/foreign@sha256:"+strings.Repeat("0", 64)+"\n", "")
	if got := changes(s.plan(Selection{Prune: true})); got != "image/shop deploy/shop deploy/planets" {
		t.Errorf("to do: %q", got)
	}
	s.mustUp(Selection{Prune: true})
	if e, err = Existing(looking); err != nil || len(e.Skipped) != 0 {
		t.Errorf("kept: %v, %v", e.Skipped, err)
	}
}

// What runs goes on while its new version cannot be had.
func TestSkippedNewVersion(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{Prune: true})
	s.needsForeign()
	s.edit("infra/k8s/base/shop/shop.yaml", "hello from", "welcome to")
	planned := s.plan(Selection{Prune: true})
	p := s.open(Selection{Prune: true})
	defer p.Close()
	if err := p.KeepSkipped(planned.Plan); err != nil {
		t.Fatal(err)
	}
	st := p.StatusOf(t.Context(), planned)
	i := slices.IndexFunc(st.Components, func(c ComponentStatus) bool { return c.Name == "shop" })
	if i < 0 || st.Components[i].State != ComponentReady || !strings.Contains(st.Components[i].Reason, "as before, its new version is skipped: ") {
		t.Errorf("%+v", st.Components)
	}
}

// An object of a kind that another component brings is applied when that kind is there; without
// it, it is told what waits.
func TestDeferred(t *testing.T) {
	moon := `apiVersion: v1
kind: ConfigMap
metadata: {name: early, namespace: apps}
---
apiVersion: example.org/v1
kind: Planet
metadata: {name: saturn, namespace: apps, annotations: {orrery.dev/ready: Orbiting, orrery.dev/optional: "true"}}
`
	s := newSmall(t)
	s.write("infra/k8s/base/early/early.yaml", moon)
	s.write("infra/k8s/base/early/kustomization.yaml", "resources: [early.yaml]\n")
	s.write("infra/k8s/base/early/component.yaml", `apiVersion: orrery.dev/v1alpha1
kind: Component
name: early
description: An object of a kind that comes later
namespace: apps
needs: [namespaces]
render: {kustomize: .}
`)
	s.edit("infra/k8s/overlays/local/overlay.yaml", "[namespaces, shop, planets]", "[namespaces, early, shop, planets]")
	s.configure("components: [early]\n")
	s.mustUp(Selection{Prune: true})
	if !s.told(ui.TypeNotice, "saturn waits for its CRD") {
		t.Errorf("nobody says what waits:\n%s", s.all())
	}
	if s.cluster.API.Get("v1", "ConfigMap", "apps", "early") == nil {
		t.Error("what could be applied is not")
	}
	s.configure("")
	s.mustUp(Selection{Prune: true})
	if s.cluster.API.Get("example.org/v1", "Planet", "apps", "saturn") == nil {
		t.Errorf("its kind is there, and it is not:\n%s", s.all())
	}
}

// An environment of a bundle needs no repository any more, and says when the bundle is gone.
func TestFromBundle(t *testing.T) {
	s := newSmall(t)
	s.request.Catalog, s.request.Bundle = "", supply.InBundle(s.request.CacheDir, s.digest)
	s.mustUp(Selection{Prune: true})
	s.request.Bundle = nil
	if p := s.plan(Selection{Prune: true}); !p.UpToDate() {
		t.Errorf("to do: %q", changes(p))
	}
	p := s.open(Selection{})
	if p.Location.Bundle() != s.digest || p.Supply.Builds() {
		t.Errorf("it is made of %q", p.Location.Bundle())
	}
	p.Close()
	if used, err := s.request.BundlesUsed(); err != nil || !used[s.digest] {
		t.Errorf("%v, %v", used, err)
	}
	if err := os.RemoveAll(s.request.CacheDir); err != nil {
		t.Fatal(err)
	}
	e, err := Open(t.Context(), s.request)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Platform(Selection{}); err == nil || !strings.Contains(err.Error(), "--catalog DIR") {
		t.Errorf("%v", err)
	}
	leaks, err := e.Remove(t.Context()) // which needs none of it
	if err != nil || len(leaks) > 0 {
		t.Errorf("%v, %v", leaks, err)
	}
}

// An action whose step names nothing of the catalogue, or that fails on the way, says so.
func TestSteps(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{Prune: true})
	p := s.open(Selection{Prune: true})
	defer p.Close()
	if err := p.LearnImages(t.Context()); err != nil { // as a plan does
		t.Fatal(err)
	}
	report := func(string, float64, float64) {}
	for kind, want := range map[plan.Kind]string{
		plan.KindBuild: `no binary "x" in the catalogue`, plan.KindImage: `no image "x" in the catalogue`, plan.KindDeploy: `no component "x" is selected`,
		plan.KindVerify: `component "x" is not part of this environment`,
	} {
		state, err := p.actions()[kind](t.Context(), plan.Step{Kind: kind, Subject: "x"}, report)
		if state != ui.StateFailed || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s, %v", kind, state, err)
		}
	}
	// Deploying what is there changes nothing; a Secret that is gone is a change.
	for _, c := range []struct {
		before func()
		want   ui.State
	}{{func() {}, ui.StateCached}, {func() {
		c, err := p.kube(t.Context())
		if err == nil {
			err = c.Delete(t.Context(), "v1", "Secret", "shop", "shop-password", 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}, ui.StateDone}} {
		c.before()
		if state, err := p.deploy(t.Context(), plan.Step{Kind: plan.KindDeploy, Subject: "shop"}, report); state != c.want || err != nil {
			t.Errorf("%s, want %s, %v", state, c.want, err)
		}
	}
	// A pod that cannot start is why the component is not ready.
	s.cluster.API.Hold(kubetest.Ref{Kind: "Deployment", Name: "shop"}, "ImagePullBackOff: no such image")
	st, err := p.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(st.Components, func(c ComponentStatus) bool { return c.Name == "shop" })
	if c := st.Components[i]; c.State == ComponentReady || !strings.Contains(cmp.Or(c.Reason, "none"), "shop") {
		t.Errorf("%+v", c)
	}
}

// A node may be Ready and take no pods: status says why.
func TestStatusSaysWhatIsAgainstANode(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	s.change("v1", "Node", "", "server1", func(o map[string]any) {
		status := o["status"].(map[string]any)
		status["conditions"] = append(status["conditions"].([]any), map[string]any{"type": "DiskPressure", "status": "True", "message": "kubelet has disk pressure"})
	})
	p := s.open(Selection{})
	defer p.Close()
	st, err := p.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := st.Nodes[0]; n.State != "ready" || n.Reason != "DiskPressure: kubelet has disk pressure" {
		t.Errorf("%+v", n)
	}
}
