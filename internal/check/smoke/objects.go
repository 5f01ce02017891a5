package smoke

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/kube"
)

// text of a field, or "".
func text(o *unstructured.Unstructured, path ...string) string {
	s, _, _ := unstructured.NestedString(o.Object, path...)
	return s
}

// ready: the object says that it is.
func ready(o *unstructured.Unstructured) bool {
	return kube.StatusCondition(o, "Ready").True()
}

// trouble says in a line why a pod does not run yet, from what its status holds.
func trouble(p *unstructured.Unstructured) string {
	if c := kube.StatusCondition(p, "PodScheduled"); c.Status == "False" {
		return "not scheduled: " + c.Message
	}
	containers, _, _ := unstructured.NestedSlice(p.Object, "status", "containerStatuses")
	for _, c := range containers {
		m, ok := c.(map[string]any)
		if !ok {
			continue
		}
		for _, state := range []string{"waiting", "terminated"} {
			reason, _, _ := unstructured.NestedString(m, "state", state, "reason")
			message, _, _ := unstructured.NestedString(m, "state", state, "message")
			if reason != "" {
				return strings.TrimSpace(fmt.Sprintf("container %s %s: %s %s", m["name"], state, reason, message))
			}
		}
	}
	if c := kube.StatusCondition(p, "Ready"); c.Message != "" {
		return c.Message
	}
	if message := text(p, "status", "message"); message != "" {
		return message
	}
	return "no reason given"
}

// internalIP of a node, or "".
func internalIP(node *unstructured.Unstructured) string {
	addresses, _, _ := unstructured.NestedSlice(node.Object, "status", "addresses")
	for _, a := range addresses {
		if m, ok := a.(map[string]any); ok && m["type"] == "InternalIP" {
			ip, _ := m["address"].(string)
			return ip
		}
	}
	return ""
}
