package kube

import (
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func managers(o *unstructured.Unstructured) []string {
	var names []string
	for _, f := range o.GetManagedFields() {
		names = append(names, f.Manager)
	}
	return names
}

// Argo CD is a manager here that applies what it was handed, with its annotation.
func TestHandOver(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	set := objects(t, ns, configMap("a", "1")+deploymentYAML)
	if _, err := c.ApplyFrom(t.Context(), "handed", "inputs", set); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.TakeBack(t.Context(), "handed") })
	get := func(kind, name string) *unstructured.Unstructured {
		t.Helper()
		version := map[string]string{"ConfigMap": "v1", "Deployment": "apps/v1"}[kind]
		o, err := c.Get(t.Context(), version, kind, ns, name)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	before := get("Deployment", "web")

	for range 2 { // an interrupted one is repeated
		if err := c.HandOver(t.Context(), "handed", set); err != nil {
			t.Fatal(err)
		}
	}
	after := get("Deployment", "web")
	if before.GetGeneration() != after.GetGeneration() {
		t.Errorf("generation %d became %d: pods are restarted", before.GetGeneration(), after.GetGeneration())
	}
	if got := managers(after); slices.Contains(got, FieldManager) || !slices.Contains(got, argoManager) {
		t.Errorf("managers are %v; want %s in place of %s", got, argoManager, FieldManager)
	}
	if _, err := c.Apply(t.Context(), "handed", set); !errors.Is(err, ErrHandedOver) {
		t.Errorf("applied beside Argo CD: %v", err)
	}

	// Argo CD applies: a tracked object, one key less, and one object more.
	tracked := objects(t, ns, configMap("a", "2"))[0]
	tracked.SetAnnotations(map[string]string{argoTracking: "x"})
	r, err := c.resource(t.Context(), "v1", "ConfigMap", ns)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range append(objects(t, ns, configMap("more", "1")), tracked) {
		if _, err := r.Apply(t.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: argoManager, Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.HandOver(t.Context(), "handed", append(objects(t, ns, configMap("more", "1")), set...)); err != nil {
		t.Fatal(err)
	}

	if err := c.TakeBack(t.Context(), "handed"); err != nil {
		t.Fatal(err)
	}
	a := get("ConfigMap", "a")
	if got := managers(a); slices.Contains(got, argoManager) || !slices.Contains(got, FieldManager) {
		t.Errorf("after it was taken back, managers are %v", got)
	}
	if a.GetAnnotations()[argoTracking] != "" {
		t.Error("Argo CD's annotation stayed")
	}
	applied, err := c.Apply(t.Context(), "handed", set)
	if err != nil {
		t.Fatal(err)
	}
	if applied.Changed != 1 || applied.Pruned != 1 {
		t.Errorf("applied %+v; want the ConfigMap a changed back, and the one that Argo CD was told of pruned", applied)
	}
	if v, _, _ := unstructured.NestedString(get("ConfigMap", "a").Object, "data", "k"); v != "1" {
		t.Errorf("data is %q", v)
	}
	if got := get("Deployment", "web").GetGeneration(); got != before.GetGeneration() {
		t.Errorf("generation %d became %d: pods are restarted", before.GetGeneration(), got)
	}
}

// What was applied completely is what the inventory has, so that what Argo CD pruned is not missed.
func TestHandedOver(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	set := objects(t, ns, configMap("a", "1")+configMap("b", "1"))
	if _, err := c.Apply(t.Context(), "handed2", set); err != nil {
		t.Fatal(err)
	}
	if err := c.HandOver(t.Context(), "handed2", set[:1]); err != nil {
		t.Fatal(err)
	}
	want := func(n int) {
		t.Helper()
		all, err := c.Inventories(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if inv := all["handed2"]; len(inv.Objects) != n || inv.Applier != ApplierArgoCD {
			t.Errorf("inventory %+v; want %d objects", inv, n)
		}
	}
	want(2)
	if err := c.HandedOver(t.Context(), "handed2", set[:1]); err != nil {
		t.Fatal(err)
	}
	want(1)
	if err := c.TakeBack(t.Context(), "handed2"); err != nil {
		t.Fatal(err)
	}
}

func TestBacksOff(t *testing.T) {
	waiting := func(reason string, restarts int32) corev1.Pod {
		return corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			RestartCount: restarts, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}},
		}}}}
	}
	for _, c := range []struct {
		pod  corev1.Pod
		want bool
	}{
		{waiting("ContainerCreating", 0), false}, {waiting("ErrImagePull", 0), false}, {waiting("ImagePullBackOff", 0), true},
		{waiting("CrashLoopBackOff", 1), false}, {waiting("CrashLoopBackOff", 2), true}, {corev1.Pod{}, false},
	} {
		if got := backsOff(c.pod); got != c.want {
			t.Errorf("%+v: %v, want %v", c.pod.Status, got, c.want)
		}
	}
}

func TestCompare(t *testing.T) {
	before := objects(t, "n", configMap("same", "1")+configMap("changed", "1")+configMap("gone", "1"))
	after := objects(t, "n", configMap("same", "1")+configMap("changed", "2")+configMap("new", "1"))
	changes, err := Compare(before, after)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, ch := range changes {
		got[ch.Object.Name] = ch.Action
	}
	if len(got) != 3 || got["changed"] != ActionChange || got["new"] != ActionCreate || got["gone"] != ActionPrune {
		t.Errorf("changes are %v", got)
	}
}
