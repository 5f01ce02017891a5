package smoke

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/mirror"
)

// rendered is every object of an overlay.
func rendered(t *testing.T, overlay string) ([]catalog.Component, []*unstructured.Unstructured) {
	t.Helper()
	c, err := catalog.Load("../../..")
	if err != nil {
		t.Fatal(err)
	}
	if overlay == "prod" { // of somebody else's cluster
		c = c.For("auto", "")
	}
	components, err := c.Select(overlay, nil)
	if err != nil {
		t.Fatal(err)
	}
	target := c.Overlays[overlay]
	target.Charts = nil // others' pods, by whose rules they are as they are
	var all []*unstructured.Unstructured
	for _, component := range components {
		files := map[string][]byte{} // CRDs of public repositories: no test fetches them
		for _, f := range component.Files {
			files[f.Name] = []byte{}
		}
		objs, err := kube.Render(kube.RenderInput{Component: component, Overlay: target, Files: files, Facts: kube.Facts{
			Environment: "test", ClusterDomain: "cluster.local", ClusterDNS: "10.96.0.10", PodCIDR: "10.244.0.0/16",
			ServiceCIDR: "10.96.0.0/16", Durability: "full", Servers: 3, Nodes: 5, Zones: 3,
		}})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, objs...)
	}
	return components, all
}

// workload is a pod template and where it comes from.
type workload struct {
	name, namespace string
	replicas        int64
	labels          labels.Set
	spec            map[string]any
}

func workloads(t *testing.T, objs []*unstructured.Unstructured) (found []workload) {
	t.Helper()
	for _, o := range objs {
		switch o.GetKind() {
		case "Deployment", "StatefulSet", "DaemonSet":
			replicas, _, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
			podLabels, _, _ := unstructured.NestedStringMap(o.Object, "spec", "template", "metadata", "labels")
			spec, _, _ := unstructured.NestedMap(o.Object, "spec", "template", "spec")
			found = append(found, workload{o.GetKind() + " " + o.GetName(), o.GetNamespace(), replicas, podLabels, spec})
		case "Prometheus", "Alertmanager":
			found = append(found, operated(t, o))
		}
	}
	return found
}

// operated is the workload that the Prometheus operator makes of o: it drops capabilities and
// mounts the root read-only by itself; the rest is what o says.
func operated(t *testing.T, o *unstructured.Unstructured) workload {
	t.Helper()
	spec, _, _ := unstructured.NestedMap(o.Object, "spec")
	container := map[string]any{
		"name": strings.ToLower(o.GetKind()), "image": spec["image"], "resources": spec["resources"],
		"securityContext": map[string]any{"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": map[string]any{"drop": []any{"ALL"}}},
	}
	patches, _ := spec["containers"].([]any)
	for _, p := range patches {
		if patch := p.(map[string]any); patch["name"] == container["name"] {
			container["env"] = patch["env"]
		}
	}
	if container["env"] == nil {
		t.Errorf("%s %s sets no GOMEMLIMIT", o.GetKind(), o.GetName())
	}
	spec["containers"] = []any{container}
	replicas, _ := spec["replicas"].(int64)
	return workload{o.GetKind() + " " + o.GetName(), o.GetNamespace(), replicas, labels.Set{"app.kubernetes.io/name": o.GetName()}, spec}
}

// TestHardening holds every workload of both overlays to what a production cluster asks.
func TestHardening(t *testing.T) {
	for _, overlay := range []string{"local", "prod"} {
		_, objs := rendered(t, overlay)
		for _, w := range workloads(t, objs) {
			t.Run(overlay+"/"+w.name, func(t *testing.T) {
				asRoot := w.name == "DaemonSet local-path" // see its comment
				if !asRoot && get(w.spec, "securityContext", "runAsNonRoot") != true {
					t.Error("may run as root")
				}
				if get(w.spec, "securityContext", "seccompProfile", "type") != "RuntimeDefault" {
					t.Error("no seccomp profile")
				}
				if get(w.spec, "automountServiceAccountToken") == nil {
					t.Error("does not say whether it needs a token of the API")
				}
				containers, _ := w.spec["containers"].([]any)
				if len(containers) == 0 {
					t.Error("no containers")
				}
				for _, c := range containers {
					checkContainer(t, c.(map[string]any), asRoot)
				}
				if w.replicas > 1 && !selected(objs, "PodDisruptionBudget", w, "selector") {
					t.Error("is replicated and has no PodDisruptionBudget")
				}
				if w.replicas > 1 && len(get(w.spec, "topologySpreadConstraints").([]any)) < 2 {
					t.Error("is replicated and not spread over zones and hosts")
				}
				if !selected(objs, "NetworkPolicy", w, "podSelector") {
					t.Error("no NetworkPolicy applies: it may talk to anybody")
				}
			})
		}
	}
}

func checkContainer(t *testing.T, c map[string]any, asRoot bool) {
	t.Helper()
	name := c["name"]
	if get(c, "securityContext", "readOnlyRootFilesystem") != true {
		t.Errorf("%s: writes to its image", name)
	}
	if get(c, "securityContext", "allowPrivilegeEscalation") != false {
		t.Errorf("%s: may gain privileges", name)
	}
	if drop, _ := get(c, "securityContext", "capabilities", "drop").([]any); !slices.Equal(drop, []any{"ALL"}) {
		t.Errorf("%s: keeps capabilities", name)
	}
	if add := get(c, "securityContext", "capabilities", "add"); add != nil && !asRoot {
		t.Errorf("%s: adds capabilities %v", name, add)
	}
	for _, kind := range []string{"requests", "limits"} {
		for _, what := range []string{"cpu", "memory"} {
			if get(c, "resources", kind, what) == nil {
				t.Errorf("%s: no %s of %s", name, kind, what)
			}
		}
	}
	image, _ := c["image"].(string)
	if !strings.HasPrefix(image, mirror.Host+"/") {
		t.Errorf("%s: image %q does not come from the mirror", name, image)
	}
	// The Go runtime has to collect before the kernel kills.
	env, _ := c["env"].([]any)
	for _, e := range env {
		if get(e.(map[string]any), "name") != "GOMEMLIMIT" {
			continue
		}
		soft, err := resource.ParseQuantity(strings.TrimSuffix(get(e.(map[string]any), "value").(string), "B"))
		hard := resource.MustParse(fmt.Sprint(get(c, "resources", "limits", "memory")))
		if err != nil || soft.Value()*100 < hard.Value()*78 || soft.Value()*100 > hard.Value()*82 {
			t.Errorf("%s: GOMEMLIMIT is %s, want 80 %% of %s (%v)", name, soft.String(), hard.String(), err)
		}
	}
}

// selected says whether an object of a kind in the workload's namespace selects its pods.
func selected(objs []*unstructured.Unstructured, kind string, w workload, field string) bool {
	return slices.ContainsFunc(objs, func(o *unstructured.Unstructured) bool {
		if o.GetKind() != kind || o.GetNamespace() != w.namespace {
			return false
		}
		want, _, _ := unstructured.NestedStringMap(o.Object, "spec", field, "matchLabels")
		_, others, _ := unstructured.NestedSlice(o.Object, "spec", field, "matchExpressions")
		return !others && labels.SelectorFromSet(want).Matches(w.labels)
	})
}

// fact of an environment, as manifests name it. Programs that read their environment write
// ${NAME} or ${env:NAME}.
var fact = regexp.MustCompile(`\$\{[a-z][A-Za-z]*\}`)

// TestOverlays: every check that a component names exists, and the overlays differ where
// production has to.
func TestOverlays(t *testing.T) {
	for overlay, class := range map[string]string{"local": "local-path", "prod": "ceph-block"} {
		components, objs := rendered(t, overlay)
		for _, c := range components {
			for _, name := range c.Smoke {
				if _, ok := registry[name]; !ok {
					t.Errorf("component %s names the check %q, which does not exist", c.Name, name)
				}
			}
		}
		var classes []string
		for _, o := range objs {
			switch o.GetKind() {
			case "StorageClass":
				classes = append(classes, o.GetName())
			case "StatefulSet":
				claims, _, _ := unstructured.NestedSlice(o.Object, "spec", "volumeClaimTemplates")
				for _, c := range claims {
					if got := get(c.(map[string]any), "spec", "storageClassName"); got != class {
						t.Errorf("%s: %s asks for storage class %v, want %s", overlay, o.GetName(), got, class)
					}
				}
			case "Prometheus", "Alertmanager":
				if got := text(o, "spec", "storage", "volumeClaimTemplate", "spec", "storageClassName"); got != class {
					t.Errorf("%s: %s asks for storage class %q, want %s", overlay, o.GetName(), got, class)
				}
			case "Service":
				if o.GetName() == "kube-dns" && text(o, "spec", "clusterIP") != "10.96.0.10" {
					t.Errorf("%s: cluster DNS has address %s", overlay, text(o, "spec", "clusterIP"))
				}
			}
			if raw, _ := yaml.Marshal(o.Object); fact.Match(raw) {
				t.Errorf("%s: %s %s holds a fact that was not put in", overlay, o.GetKind(), o.GetName())
			}
		}
		if !slices.Equal(classes, []string{class}) {
			t.Errorf("%s: storage classes %v, want only %s", overlay, classes, class)
		}
	}
}

func get(m map[string]any, path ...string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(m, path...)
	return v
}
