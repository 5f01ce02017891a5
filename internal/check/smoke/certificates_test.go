package smoke

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestDoneWith: a Secret that is deleted before cert-manager has noted that it wrote it comes back with the same key.
func TestDoneWith(t *testing.T) {
	condition := func(kind, status string) any { return map[string]any{"type": kind, "status": status} }
	for name, test := range map[string]struct {
		status map[string]any
		done   bool
	}{
		"nothing yet":                      {nil, false},
		"the first issuing":                {map[string]any{"conditions": []any{condition("Issuing", "True")}}, false},
		"ready and issuing":                {map[string]any{"conditions": []any{condition("Ready", "True"), condition("Issuing", "True")}}, false},
		"noted":                            {map[string]any{"revision": int64(1), "conditions": []any{condition("Ready", "True")}}, true},
		"tried in vain before, then noted": {map[string]any{"revision": int64(1), "conditions": []any{condition("Issuing", "False")}}, true},
		"issuing once more":                {map[string]any{"revision": int64(1), "conditions": []any{condition("Issuing", "True")}}, false},
	} {
		certificate := &unstructured.Unstructured{Object: map[string]any{"kind": "Certificate", "status": test.status}}
		if err := doneWith(certificate); (err == nil) != test.done {
			t.Errorf("%s: %v", name, err)
		}
	}
}
