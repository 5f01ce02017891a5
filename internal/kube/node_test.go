package kube

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestNodeTrouble(t *testing.T) {
	condition := func(kind, status, message string) any {
		return map[string]any{"type": kind, "status": status, "message": message}
	}
	ready := condition("Ready", "True", "kubelet is posting ready status")
	for name, c := range map[string]struct {
		conditions []any
		spec       map[string]any
		want       string
	}{
		"well": {conditions: []any{ready, condition("DiskPressure", "False", "kubelet has no disk pressure")}},
		"the taints of a role": {conditions: []any{ready}, spec: map[string]any{"taints": []any{
			map[string]any{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}}}},
		"a full disk": {
			conditions: []any{ready, condition("DiskPressure", "True", "kubelet has disk pressure")},
			spec:       map[string]any{"taints": []any{map[string]any{"key": "node.kubernetes.io/disk-pressure", "effect": "NoSchedule"}}},
			want:       "DiskPressure: kubelet has disk pressure",
		},
		"not Ready":      {conditions: []any{condition("Ready", "Unknown", "Kubelet stopped posting node status.")}, want: "not Ready: Kubelet stopped posting node status."},
		"never reported": {want: "not Ready: no such condition yet"},
		"cordoned":       {conditions: []any{ready}, spec: map[string]any{"unschedulable": true}, want: "cordoned"},
		"somebody's taint": {conditions: []any{ready}, spec: map[string]any{"taints": []any{
			map[string]any{"key": "gpu", "value": "only", "effect": "NoSchedule"}}}, want: "taint gpu=only:NoSchedule"},
	} {
		t.Run(name, func(t *testing.T) {
			node := &unstructured.Unstructured{Object: map[string]any{"status": map[string]any{"conditions": c.conditions}}}
			if c.spec != nil {
				node.Object["spec"] = c.spec
			}
			if got := NodeTrouble(node); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}
