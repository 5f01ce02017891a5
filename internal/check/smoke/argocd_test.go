package smoke

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// TestArgoCDReplicas: in prod the repo server survives a node that is drained; the controller, of which there may be
// one, lets nodes be drained.
func TestArgoCDReplicas(t *testing.T) {
	for overlay, want := range map[string]struct {
		repo    int64
		budgets int
	}{"local": {1, 0}, "prod": {2, 1}} {
		_, objs := rendered(t, overlay)
		var budgets []labels.Set
		for _, o := range objs {
			if o.GetKind() == "PodDisruptionBudget" && o.GetNamespace() == "argocd" {
				selector, _, _ := unstructured.NestedStringMap(o.Object, "spec", "selector", "matchLabels")
				if n, _, _ := unstructured.NestedInt64(o.Object, "spec", "maxUnavailable"); n != 1 {
					t.Errorf("%s: %s has maxUnavailable %d", overlay, o.GetName(), n)
				}
				budgets = append(budgets, selector)
			}
		}
		if len(budgets) != want.budgets {
			t.Errorf("%s: budgets for %v", overlay, budgets)
		}
		found := 0
		for _, w := range workloads(t, objs) {
			bounded := false
			for _, b := range budgets {
				bounded = bounded || w.namespace == "argocd" && labels.SelectorFromSet(b).Matches(w.labels)
			}
			switch w.name {
			case "Deployment argocd-repo-server":
				found++
				if w.replicas != want.repo || bounded != (want.budgets > 0) {
					t.Errorf("%s: %d repo servers, with a budget: %v", overlay, w.replicas, bounded)
				}
				if spread, _ := w.spec["topologySpreadConstraints"].([]any); w.replicas > 1 && len(spread) == 0 {
					t.Errorf("%s: repo servers may be on one node", overlay)
				}
			case "Deployment argocd-controller":
				found++
				if w.replicas != 1 || bounded {
					t.Errorf("%s: %d controllers, with a budget: %v", overlay, w.replicas, bounded)
				}
			}
		}
		if found != 2 {
			t.Errorf("%s: %d parts of Argo CD", overlay, found)
		}
	}
}
