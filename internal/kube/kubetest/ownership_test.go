package kubetest_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

// share connects to a cluster that others use, too.
func share(t *testing.T, s *kubetest.Server, o kube.Ownership) *kube.Client {
	t.Helper()
	c, err := kube.ConnectWith(s.Kubeconfig(), kube.WithOwnership(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

const shop = `{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: prices, namespace: shop}, data: {tea: "2"}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: stock, namespace: shop}, spec: {}}
`

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

// make has somebody else make an object.
func makeOther(t *testing.T, s *kubetest.Server, resource, namespace, text string) {
	t.Helper()
	r := other(t, s).Resource(schema.GroupVersionResource{Version: "v1", Resource: resource}).Namespace(namespace)
	if _, err := r.Create(t.Context(), objects(t, text)[0], metav1.CreateOptions{FieldManager: "helm"}); err != nil {
		t.Fatal(err)
	}
}

// Two environments of one cluster, and one that has it to itself, do not see each other's.
func TestEnvironmentsApart(t *testing.T) {
	s := kubetest.New(t)
	one, two := share(t, s, kube.Ownership{Environment: "one"}), share(t, s, kube.Ownership{Environment: "two", Adopt: true})
	alone := share(t, s, kube.Ownership{})
	if _, err := one.Apply(t.Context(), "shop", objects(t, shop)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*kube.Client{"two": two, "alone": alone} {
		if all, err := c.Inventories(t.Context()); err != nil || len(all) > 0 {
			t.Errorf("%s sees %v, %v", name, all, err)
		}
	}
	// Not even adoption takes from another environment.
	_, err := two.Apply(t.Context(), "shop", objects(t, shop))
	if !errors.Is(err, kube.ErrTaken) || !strings.Contains(err.Error(), "environment one") {
		t.Errorf("two takes from one: %v", err)
	}
	if kept, err := two.RemoveOwned(t.Context(), "shop"); err != nil || kept != nil || s.Get("v1", "ConfigMap", "shop", "prices") == nil {
		t.Errorf("two removes what is one's: %v, %v", kept, err)
	}
}

// Data stays, and the namespace that it is in, until it is to be deleted.
func TestDataStays(t *testing.T) {
	s := kubetest.New(t)
	c := share(t, s, kube.Ownership{Environment: "one"})
	if _, err := c.Apply(t.Context(), "shop", objects(t, shop)); err != nil {
		t.Fatal(err)
	}
	kept, err := c.RemoveOwned(t.Context(), "shop")
	if err != nil || len(kept) != 2 || !strings.Contains(strings.Join(kept, " "), "--delete-data") {
		t.Errorf("kept %q, %v", kept, err)
	}
	if s.Get("v1", "PersistentVolumeClaim", "shop", "stock") == nil || s.Get("v1", "Namespace", "", "shop") == nil {
		t.Fatal("the claim or its namespace is gone")
	}
	if s.Get("v1", "ConfigMap", "shop", "prices") != nil {
		t.Error("the rest stays")
	}
	c = share(t, s, kube.Ownership{Environment: "one", DeleteData: true})
	if _, err := c.Apply(t.Context(), "shop", objects(t, shop)); err != nil { // what stayed is still ours
		t.Fatal(err)
	}
	if kept, err := c.RemoveOwned(t.Context(), "shop"); err != nil || len(kept) > 0 {
		t.Errorf("kept %q, %v", kept, err)
	}
	if s.Get("v1", "Namespace", "", "shop") != nil {
		t.Error("the namespace stays")
	}
}

// A namespace with something of others in it stays.
func TestNamespaceInUse(t *testing.T) {
	s := kubetest.New(t)
	c := share(t, s, kube.Ownership{Environment: "one", DeleteData: true})
	if _, err := c.Apply(t.Context(), "shop", objects(t, shop)); err != nil {
		t.Fatal(err)
	}
	makeOther(t, s, "configmaps", "shop", `{apiVersion: v1, kind: ConfigMap, metadata: {name: theirs, namespace: shop}}`)
	kept, err := c.RemoveOwned(t.Context(), "shop")
	if err != nil || len(kept) != 1 || !strings.Contains(kept[0], "ConfigMap shop/theirs") {
		t.Errorf("kept %q, %v", kept, err)
	}
	if s.Get("v1", "ConfigMap", "shop", "theirs") == nil {
		t.Error("what is theirs is gone")
	}
}

// What another manages is refused, with its name; adopted, it is changed and outlives us.
func TestAdoption(t *testing.T) {
	s := kubetest.New(t)
	makeOther(t, s, "namespaces", "", `{apiVersion: v1, kind: Namespace, metadata: {name: shop}}`)
	makeOther(t, s, "configmaps", "shop", `{apiVersion: v1, kind: ConfigMap, metadata: {name: prices, namespace: shop}, data: {tea: "3"}}`)
	objs := objects(t, shop)[:2]
	c := share(t, s, kube.Ownership{Environment: "one"})
	_, err := c.Apply(t.Context(), "shop", objs)
	for _, want := range []string{"ConfigMap shop/prices", "Namespace shop", "helm manages it", "--adopt"} {
		if !errors.Is(err, kube.ErrTaken) || !strings.Contains(err.Error(), want) {
			t.Errorf("refusal %v lacks %q", err, want)
		}
	}
	if err := c.Taken(t.Context(), objs); !errors.Is(err, kube.ErrTaken) {
		t.Errorf("preflight: %v", err)
	}
	if all, err := c.Inventories(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("a refused apply left %v, %v", all, err)
	}
	adopting := share(t, s, kube.Ownership{Environment: "one", Adopt: true})
	if _, err := adopting.Apply(t.Context(), "shop", objs); err != nil {
		t.Fatal(err)
	}
	// Afterwards it is the environment's, whoever asks; and it is still known what was found.
	applied, err := c.Apply(t.Context(), "shop", objs)
	if err != nil || applied.Unchanged != 2 {
		t.Errorf("again: %+v, %v", applied, err)
	}
	kept, err := c.RemoveOwned(t.Context(), "shop")
	if err != nil || len(kept) != 2 {
		t.Errorf("kept %q, %v", kept, err)
	}
	live, err := other(t, s).Resource(configMaps).Namespace("shop").Get(t.Context(), "prices", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if labels := live.GetLabels(); labels[kube.LabelEnvironment] != "" || labels[kube.LabelComponent] != "" {
		t.Errorf("labels %v", labels)
	}
	if _, err := c.Apply(t.Context(), "shop", objs); !errors.Is(err, kube.ErrTaken) {
		t.Errorf("after removal it is somebody else's again, got %v", err)
	}
}

// What was adopted and leaves the component is released, not pruned.
func TestAdoptedIsNotPruned(t *testing.T) {
	s := kubetest.New(t)
	makeOther(t, s, "configmaps", "default", `{apiVersion: v1, kind: ConfigMap, metadata: {name: prices, namespace: default}, data: {tea: "3"}}`)
	objs := objects(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: prices, namespace: default}, data: {tea: "2"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: more, namespace: default}}
`)
	c := share(t, s, kube.Ownership{Environment: "one", Adopt: true})
	if _, err := c.Apply(t.Context(), "shop", objs); err != nil {
		t.Fatal(err)
	}
	if applied, err := c.Apply(t.Context(), "shop", objs[1:]); err != nil || applied.Pruned != 0 {
		t.Errorf("%+v, %v", applied, err)
	}
	if s.Get("v1", "ConfigMap", "default", "prices") == nil {
		t.Error("what was found is gone")
	}
	all, err := c.Inventories(t.Context())
	if err != nil || len(all["shop"].Objects) != 1 || len(all["shop"].Found) > 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestAllowed(t *testing.T) {
	s := kubetest.New(t)
	c := share(t, s, kube.Ownership{Environment: "one"})
	s.Deny("delete", "", "configmaps")
	got := []bool{}
	for _, verb := range []string{"create", "delete"} {
		ok, err := c.Allowed(t.Context(), verb, "v1", "ConfigMap")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, ok)
	}
	if !slices.Equal(got, []bool{true, false}) {
		t.Errorf("got %v", got)
	}
}
