package native

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/spec"
)

// ciliumElsewhere are options that agents or operators have another value of when they are
// pods, by the chart with the values of an overlay. The texts are the reasons.
var ciliumElsewhere = map[string]string{
	"k8s-kubeconfig-path":            "a pod has a token of its own",
	"k8s-namespace":                  "the chart gives it in the environment",
	"devices":                        "found by the agent: nodes elsewhere have other links",
	"direct-routing-device":          "as devices",
	"mtu":                            "as devices",
	"enable-ipv4-big-tcp":            "asks for drivers that carry it: of links elsewhere nothing is known",
	"enable-ipv4-masquerade":         "local nodes have a way out only when they are asked to",
	"enable-bpf-masquerade":          "as enable-ipv4-masquerade",
	"lib-dir":                        "in the image",
	"state-dir":                      "the default",
	"socket-path":                    "the default",
	"procfs":                         "the host's, mounted",
	"cni-log-file":                   "on the host",
	"write-cni-conf-when-ready":      "on the host",
	"hubble-socket-path":             "on the host",
	"hubble-metrics-server":          "pods of the host's network listen on all its addresses",
	"prometheus-serve-addr":          "as hubble-metrics-server",
	"operator-prometheus-serve-addr": "as hubble-metrics-server",
	"disable-envoy-version-check":    "the image has no Envoy that could be too old",
	"enable-policy-secrets-sync":     "the chart leaves it out when it is off, and so does the agent",
	"enable-dynamic-config":          "the chart's agents follow their ConfigMap; local ones have a file",
	"skip-crd-creation":              "the operator makes them where no driver does",
	"remove-cilium-node-taints":      "it looks for the agent's pod, and local agents are none",
	"set-cilium-node-taints":         "as remove-cilium-node-taints",
	"set-cilium-is-up-condition":     "as remove-cilium-node-taints",
	"unmanaged-pod-watcher-interval": "as remove-cilium-node-taints",
}

// TestCiliumChart holds agents that are pods, elsewhere and on nodes that are containers, to what local
// agents are given, and local rights to those that Cilium's own chart gives.
func TestCiliumChart(t *testing.T) {
	if testing.Short() {
		t.Skip("reads Cilium's module, 35 MB when it is not in the module cache")
	}
	for _, where := range []struct {
		overlay, component string
		same               string            // of ciliumElsewhere, as local agents have it
		more               map[string]string // beside ciliumElsewhere
	}{
		{"prod", "cilium", "", nil},
		{"local", "cilium-agents", "enable-ipv4-masquerade", map[string]string{
			"cgroup-root": "the node mounts it, and /run/cilium is the agents'",
		}},
	} {
		t.Run(where.overlay, func(t *testing.T) {
			elsewhere := maps.Clone(ciliumElsewhere)
			maps.Copy(elsewhere, where.more)
			delete(elsewhere, where.same)
			ciliumChart(t, rendered(t, where.overlay, where.component), elsewhere)
		})
	}
}

func ciliumChart(t *testing.T, objs []*unstructured.Unstructured, elsewhere map[string]string) {
	find := func(kind, name string) *unstructured.Unstructured {
		t.Helper()
		for _, o := range objs {
			if o.GetKind() == kind && o.GetName() == name {
				return o
			}
		}
		t.Fatalf("the chart renders no %s %s", kind, name)
		return nil
	}

	there, _, err := unstructured.NestedStringMap(find("ConfigMap", "cilium-config").Object, "data")
	if err != nil {
		t.Fatal(err)
	}
	c := testClusterOf(t, spec.PluginCilium)
	here := ciliumAgentConfig(c, c.Nodes[0])
	maps.Copy(here, ciliumOperatorConfig(c, c.Nodes[0]))
	for _, key := range slices.Sorted(maps.Keys(here)) {
		_, sized := ciliumMaps[key]
		_, differs := elsewhere[key]
		if same := strings.Join(strings.Fields(there[key]), " ") == here[key]; same && differs {
			t.Errorf("%s is %q in both; take it out of the list of differences", key, here[key])
		} else if !same && !differs && !sized { // maps of production size themselves
			t.Errorf("%s is %q here and %q there, without a reason", key, here[key], there[key])
		}
	}
	for key := range elsewhere {
		if _, is := here[key]; !is {
			t.Errorf("%s is no option that is given here", key)
		}
	}

	for name, rules := range map[string][]rule{"cilium": ciliumAgentRules, "cilium-operator": ciliumOperatorRules} {
		var role rbac.ClusterRole
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(find("ClusterRole", name).Object, &role); err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			for _, resource := range r.resources {
				for _, verb := range r.verbs {
					if !grants(role.Rules, r.group, resource, verb) {
						t.Errorf("%s may %s %s of %q here, which the chart does not grant", name, verb, resource, r.group)
					}
				}
			}
		}
	}

	version := ciliumVersion(t)
	for kind, name := range map[string]string{"DaemonSet": "cilium", "Deployment": "cilium-operator"} {
		containers, _, err := unstructured.NestedSlice(find(kind, name).Object, "spec", "template", "spec", "containers")
		if err != nil {
			t.Fatal(err)
		}
		if image := containers[0].(map[string]any)["image"].(string); !strings.Contains(image, ":"+version+"@sha256:") {
			t.Errorf("%s %s runs %s, but the module is %s", kind, name, image, version)
		}
	}
}

func grants(rules []rbac.PolicyRule, group, resource, verb string) bool {
	return slices.ContainsFunc(rules, func(r rbac.PolicyRule) bool {
		has := func(list []string, s string) bool { return slices.Contains(list, s) || slices.Contains(list, "*") }
		return has(r.APIGroups, group) && has(r.Resources, resource) && has(r.Verbs, verb)
	})
}

// rendered is a component as an overlay has it, with images of no particular content.
func rendered(t *testing.T, overlay, name string) []*unstructured.Unstructured {
	t.Helper()
	cat, err := catalog.Load("../../..")
	if err != nil {
		t.Fatal(err)
	}
	b, err := image.NewBuilder(build.Options{CacheDir: t.TempDir(), RepoRoot: cat.Root})
	if err != nil {
		t.Fatal(err)
	}
	files, err := b.Chart(t.Context(), cat.Overlays[overlay].Charts[name])
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]string{}
	for _, i := range cat.Components[name].Images {
		images[i.Name] = image.Built{Name: i.Name, Version: i.Version, Digest: "sha256:" + strings.Repeat("0", 64)}.Reference()
	}
	objs, err := kube.Render(kube.RenderInput{
		Component: cat.Components[name], Overlay: cat.Overlays[overlay], Chart: files, Images: images,
		Facts: kube.Facts{Environment: "test", ClusterDomain: "cluster.local", ClusterDNS: "10.96.0.10", PodCIDR: testClusterOf(t, spec.PluginCilium).Pods.String(), ServiceCIDR: "10.96.0.0/16"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return objs
}

// ciliumVersion is that of the module which local programs are compiled from.
func ciliumVersion(t *testing.T) string {
	t.Helper()
	file := filepath.FromSlash("../../../infra/native/cilium/go.mod")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	mod, err := modfile.Parse(file, data, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		if r.Mod.Path == "github.com/cilium/cilium" {
			return r.Mod.Version
		}
	}
	t.Fatalf("%s does not require Cilium", file)
	return ""
}
