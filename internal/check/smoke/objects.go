package smoke

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// text of a field, or "".
func text(o *unstructured.Unstructured, path ...string) string {
	s, _, _ := unstructured.NestedString(o.Object, path...)
	return s
}

// condition is the status of a condition of o, or "".
func condition(o *unstructured.Unstructured, kind string) string {
	status, _ := conditionOf(o, kind)
	return status
}

func conditionOf(o *unstructured.Unstructured, kind string) (status, message string) {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["type"] == kind {
			status, _ = m["status"].(string)
			message, _ = m["message"].(string)
		}
	}
	return status, message
}

// trouble says in a line why a pod does not run yet, from what its status holds.
func trouble(p *unstructured.Unstructured) string {
	if status, message := conditionOf(p, "PodScheduled"); status == "False" {
		return "not scheduled: " + message
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
	if _, message := conditionOf(p, "Ready"); message != "" {
		return message
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
