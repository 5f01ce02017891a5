package kube

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestStatusCondition(t *testing.T) {
	o := &unstructured.Unstructured{Object: map[string]any{
		"metadata": map[string]any{"generation": int64(7)},
		"status": map[string]any{"conditions": []any{
			"junk", map[string]any{"type": 1},
			map[string]any{"type": "Ready", "status": "True", "reason": "Up", "message": "all of it", "observedGeneration": int64(5)},
			map[string]any{"type": "Available", "status": "False", "reason": "Down"},
		}},
	}}
	for kind, want := range map[string]Condition{
		"Ready":     {Status: "True", Reason: "Up", Message: "all of it", Observed: 5},
		"Available": {Status: "False", Reason: "Down", Observed: 7},
		"Complete":  {},
	} {
		if c := StatusCondition(o, kind); c != want || c.True() != (want.Status == "True") {
			t.Errorf("%s: %+v, want %+v", kind, c, want)
		}
	}
	for kind, want := range map[string]string{"Ready": "all of it", "Available": "Down", "Complete": "no such condition yet"} {
		if says := StatusCondition(o, kind).says(); says != want {
			t.Errorf("%s says %q, want %q", kind, says, want)
		}
	}
	for _, status := range []any{nil, "text", map[string]any{"conditions": "text"}} {
		if c := StatusCondition(&unstructured.Unstructured{Object: map[string]any{"status": status}}, "Ready"); c != (Condition{}) {
			t.Errorf("%v has %+v", status, c)
		}
	}
}
