package kube

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// pressures are conditions of a node that are bad when they hold. A node with one of them may be
// Ready and take no pods: kubelet and the controller manager make taints of them.
// Source: https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/
var pressures = []corev1.NodeConditionType{
	corev1.NodeDiskPressure, corev1.NodeMemoryPressure, corev1.NodePIDPressure, corev1.NodeNetworkUnavailable,
}

// ownTaints begin the keys of taints that follow from a node's conditions, and from its role.
var ownTaints = []string{"node.kubernetes.io/", "node-role.kubernetes.io/"}

// NodeTrouble is what speaks against a node in one line: why it is not Ready, pressures, and what
// somebody did to keep pods away. It is empty when nothing does.
func NodeTrouble(node *unstructured.Unstructured) string {
	var n corev1.Node
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(node.Object, &n); err != nil {
		return "it cannot be read: " + err.Error()
	}
	var found []string
	if ready := StatusCondition(node, string(corev1.NodeReady)); !ready.True() {
		found = append(found, "not Ready: "+oneLine(ready.says()))
	}
	found = append(found, NodePressures(node)...)
	if n.Spec.Unschedulable {
		found = append(found, "cordoned")
	}
	for _, t := range n.Spec.Taints {
		own := slices.ContainsFunc(ownTaints, func(prefix string) bool { return strings.HasPrefix(t.Key, prefix) })
		if !own && t.Effect != corev1.TaintEffectPreferNoSchedule {
			found = append(found, "taint "+t.ToString())
		}
	}
	return strings.Join(found, "; ")
}

// NodePressures are what a node itself is short of, each with its message.
func NodePressures(node *unstructured.Unstructured) (found []string) {
	for _, kind := range pressures {
		if c := StatusCondition(node, string(kind)); c.True() {
			found = append(found, strings.TrimSuffix(string(kind)+": "+oneLine(c.Message), ": "))
		}
	}
	return found
}

// nodesAgainst is the trouble of all nodes, in brackets, for a pod that no node takes. The
// scheduler names taints at most, and not what made them.
func (c *Client) nodesAgainst(ctx context.Context) string {
	nodes, err := c.List(ctx, "v1", "Node", "", "")
	if err != nil {
		return ""
	}
	var found []string
	for _, n := range nodes {
		if trouble := NodeTrouble(&n); trouble != "" {
			found = append(found, n.GetName()+" "+trouble)
		}
	}
	if found == nil {
		return ""
	}
	return " (" + strings.Join(found, " · ") + ")"
}
