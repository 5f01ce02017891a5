package kube

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orrery-dev/orrery/internal/catalog"
)

// What may and what may not happen to objects of ours before they have to be asked for one
// by one.
func TestStandings(t *testing.T) {
	c := connect(t)
	const text = `---
{apiVersion: v1, kind: ConfigMap, metadata: {name: plain, labels: {mine: "1"}}, data: {k: v}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: web}, spec: {maxUnavailable: 1, selector: {matchLabels: {app: web}}}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: "%s-web"}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}
`
	patch := func(apiVersion, kind, body, manager string, sub ...string) func(*testing.T, string) {
		return func(t *testing.T, ns string) {
			name := map[string]string{"ConfigMap": "plain", "Service": "web", "PodDisruptionBudget": "web", "ClusterRole": ns + "-web"}[kind]
			if kind == "ClusterRole" {
				ns = ""
			}
			r, err := c.resource(t.Context(), apiVersion, kind, ns)
			if err == nil {
				_, err = r.Patch(t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: manager}, sub...)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(t *testing.T, ns string) {
		if err := c.Delete(t.Context(), "v1", "ConfigMap", ns, "plain", 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, ns string)
		want   Observed
	}{
		{"nothing", func(*testing.T, string) {}, Observed{true, true}},
		{"a field of somebody else", patch("v1", "ConfigMap", `{"data":{"other":"x"},"metadata":{"annotations":{"a":"b"}}}`, "kubectl"), Observed{true, true}},
		{"the status", patch("policy/v1", "PodDisruptionBudget", `{"status":{"currentHealthy":3}}`, "controller", "status"), Observed{true, true}},
		{"the same value", patch("v1", "ConfigMap", `{"data":{"k":"v"}}`, "kubectl"), Observed{true, true}},
		{"another value", patch("v1", "ConfigMap", `{"data":{"k":"changed"}}`, "kubectl"), Observed{false, true}},
		{"another value, back again", func(t *testing.T, ns string) {
			patch("v1", "ConfigMap", `{"data":{"k":"changed"}}`, "kubectl")(t, ns)
			patch("v1", "ConfigMap", `{"data":{"k":"v"}}`, "kubectl")(t, ns)
		}, Observed{false, true}}, // not proven; a dry run tells
		{"another value under our name", patch("v1", "ConfigMap", `{"data":{"k":"changed"}}`, FieldManager), Observed{false, true}},
		{"a field taken away", patch("v1", "ConfigMap", `{"data":{"k":null}}`, "kubectl"), Observed{false, true}},
		{"a label of ours", patch("v1", "ConfigMap", `{"metadata":{"labels":{"mine":null}}}`, "kubectl"), Observed{false, true}},
		{"the label that it is found by", patch("v1", "ConfigMap", `{"metadata":{"labels":{"orrery.dev/component":null}}}`, "kubectl"), Observed{false, false}},
		{"inside a mapping", patch("v1", "Service", `{"spec":{"selector":{"app":"other"}}}`, "kubectl"), Observed{false, true}},
		{"a list as a whole", patch("rbac.authorization.k8s.io/v1", "ClusterRole", `{"rules":[]}`, "kubectl"), Observed{false, true}},
		{"the account of fields", patch("v1", "ConfigMap", `{"metadata":{"managedFields":[{}]}}`, "kubectl"), Observed{false, true}},
		{"deleted", remove, Observed{false, false}},
		{"deleted, and made again by somebody", func(t *testing.T, ns string) {
			remove(t, ns)
			again := objects(t, ns, text)[0]
			again.SetLabels(map[string]string{"mine": "1", LabelManagedBy: FieldManager, LabelComponent: ns})
			if err := c.Create(t.Context(), again); err != nil {
				t.Fatal(err)
			}
		}, Observed{false, true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := namespace(t, c) // the component's name too, so that it is alone
			if _, err := c.ApplyFrom(t.Context(), ns, "sha256:in", objects(t, ns, text)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Remove(context.WithoutCancel(t.Context()), ns) })
			tt.change(t, ns)
			inventories, err := c.Inventories(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := inventories[ns].Inputs; got != "sha256:in" {
				t.Errorf("the inventory's inputs are %q", got)
			}
			got, err := c.Observe(t.Context(), map[string]Inventory{ns: inventories[ns]})
			if err != nil {
				t.Fatal(err)
			}
			if got[ns] != tt.want {
				t.Errorf("got %+v, want %+v", got[ns], tt.want)
			}
			// Applying again puts it right.
			if _, err := c.ApplyFrom(t.Context(), ns, "sha256:in", objects(t, ns, text)); err != nil {
				t.Fatal(err)
			}
			if inventories, err = c.Inventories(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got, err = c.Observe(t.Context(), map[string]Inventory{ns: inventories[ns]}); err != nil || got[ns] != (Observed{true, true}) {
				t.Errorf("after applying again: %+v, %v", got[ns], err)
			}
		})
	}
}

// A workload without ready pods, a set that waits for a kind, and an apply that was cut off.
func TestStandingsUnproven(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	apply := func(component, text string) {
		t.Helper()
		if _, err := c.Apply(t.Context(), component, objects(t, ns, text)); err != nil {
			t.Fatal(err)
		}
	}
	apply(ns+"-web", deploymentYAML)
	apply(ns+"-late", configMap("late", "x")+`---
{apiVersion: nobody.example.com/v1, kind: Thing, metadata: {name: x, annotations: {orrery.dev/optional: "true"}}}
`)
	apply(ns+"-cut", configMap("cut", "x"))
	inventories, err := c.Inventories(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cut := inventories[ns+"-cut"]
	cut.Hash = ""
	inventories[ns+"-cut"] = cut
	got, err := c.Observe(t.Context(), inventories)
	if err != nil {
		t.Fatal(err)
	}
	for component, want := range map[string]Observed{"web": {true, false}, "late": {true, true}, "cut": {false, true}} {
		if got[ns+"-"+component] != want {
			t.Errorf("%s: got %+v, want %+v", component, got[ns+"-"+component], want)
		}
	}
}

func TestInputs(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	in := RenderInput{
		Component: catalog.Component{Name: "a", Images: []catalog.Image{{Name: "img", Version: "v1"}}},
		Facts:     Facts{Servers: 3}, Images: map[string]string{"img": "r/img@sha256:1", "other": "r/other@sha256:1"},
	}
	key := func() string {
		t.Helper()
		tree, err := ReadTree(dir)
		if err != nil {
			t.Fatal(err)
		}
		return in.Inputs(tree)
	}
	write("base/a/kustomization.yaml", "resources: []")
	write("base/a/source/main.go", "package main")
	first := key()
	if first == "" {
		t.Fatal("no key: has the test binary no build ID?")
	}
	same := func(what string, want bool) {
		t.Helper()
		if got := key() == first; got != want {
			t.Errorf("%s: same key: %v, want %v", what, got, want)
		}
	}

	write("base/a/kustomization.yaml", "resources: []")
	write("base/a/source/main.go", "package main // changed")
	same("written again, and Go source", true)
	in.Images["other"] = "r/other@sha256:2"
	same("an image of another component", true)
	in.Images["img"] = "r/img@sha256:2"
	same("an image", false)
	in.Images["img"] = "r/img@sha256:1"
	in.Facts.Servers = 1
	same("a fact", false)
	in.Facts.Servers = 3
	write("base/a/kustomization.yaml", "resources: [x]")
	same("a file", false)
	write("base/a/kustomization.yaml", "resources: []")
	write("base/b/x.yaml", "")
	same("a file of another component", false)
	if err := os.Remove(filepath.Join(dir, "base/b/x.yaml")); err != nil {
		t.Fatal(err)
	}
	same("all as before", true)
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadTree(dir); err == nil {
		t.Error("a link was taken")
	}
	if in.Inputs("") != "" {
		t.Error("a key without a tree")
	}
}
