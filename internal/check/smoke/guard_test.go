package smoke

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// TestEveryNamespaceIsGuarded: each that there is, Kubernetes' own too, has a pod-security level
// that is enforced.
func TestEveryNamespaceIsGuarded(t *testing.T) {
	for overlay, weak := range map[string]map[string]string{
		"local": {"observability-agents": "privileged", "local-path-storage": "privileged", "default": "baseline"},
		// Cilium's agents are pods of kube-system.
		"prod": {"observability-agents": "privileged", "kube-system": "privileged", "default": "baseline"},
	} {
		_, objs := rendered(t, overlay)
		levels := map[string]string{}
		for _, o := range objs {
			if o.GetKind() == "Namespace" {
				levels[o.GetName()] = o.GetLabels()[enforceLabel]
			}
		}
		for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease", "apps", "platform"} {
			if _, ok := levels[name]; !ok {
				t.Errorf("%s: nothing is said of namespace %s: it takes privileged pods", overlay, name)
			}
		}
		for name, level := range levels {
			want := "restricted"
			if weak[name] != "" {
				want = weak[name]
			}
			if level != want {
				t.Errorf("%s: namespace %s enforces %q, want %s", overlay, name, level, want)
			}
		}
	}
}

// one is the only object of a kind and name.
func one(t *testing.T, objs []*unstructured.Unstructured, kind, name string) *unstructured.Unstructured {
	t.Helper()
	i := slices.IndexFunc(objs, func(o *unstructured.Unstructured) bool { return o.GetKind() == kind && o.GetName() == name })
	if i < 0 {
		t.Fatalf("there is no %s %s", kind, name)
	}
	return objs[i]
}

// configOf is a file, in YAML, of the ConfigMap whose name begins with prefix.
func configOf(t *testing.T, objs []*unstructured.Unstructured, prefix, file string) map[string]any {
	t.Helper()
	for _, o := range objs {
		if o.GetKind() != "ConfigMap" || !strings.HasPrefix(o.GetName(), prefix) {
			continue
		}
		if raw, ok, _ := unstructured.NestedString(o.Object, "data", file); ok {
			var content map[string]any
			if err := yaml.Unmarshal([]byte(raw), &content); err != nil {
				t.Fatalf("%s of %s: %v", file, o.GetName(), err)
			}
			return content
		}
	}
	t.Fatalf("no ConfigMap %s… has %s", prefix, file)
	return nil
}

// TestTelemetryCannotBeControlled: what would reload, end or empty the stores is off, whoever asks.
func TestTelemetryCannotBeControlled(t *testing.T) {
	for _, overlay := range []string{"local", "prod"} {
		_, objs := rendered(t, overlay)
		prometheus := one(t, objs, "Prometheus", "prometheus")
		if got := text(prometheus, "spec", "reloadStrategy"); got != "ProcessSignal" {
			t.Errorf("%s: reloadStrategy %q: the operator opens /-/reload and /-/quit for it", overlay, got)
		}
		for _, off := range []string{"enableRemoteWriteReceiver", "enableAdminAPI"} {
			if on, _, _ := unstructured.NestedBool(prometheus.Object, "spec", off); on {
				t.Errorf("%s: Prometheus has %s", overlay, off)
			}
		}
		// The kernel keeps 15 bytes of a program's name, and the reloader compares those.
		if text, _ := yaml.Marshal(prometheus.Object); !strings.Contains(string(text), "--process-executable-name="+"prometheus-server"[:15]+"\n") {
			t.Errorf("%s: the reloader looks for another process than prometheus-server", overlay)
		}
		loki := configOf(t, objs, "loki", "loki.yaml")
		if got := get(loki, "limits_config", "deletion_mode"); got != "disabled" {
			t.Errorf("%s: Loki's deletion_mode is %v: whoever reaches it deletes lines", overlay, got)
		}
	}
}
