package app

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/console"
	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/kube"
)

// placePods puts the pods onto their nodes, in the order of their names.
func placePods(s *console.Snapshot, pods []unstructured.Unstructured) {
	at := map[string]int{}
	for i, n := range s.Nodes {
		at[n.Name] = i
	}
	for _, o := range pods {
		p, node := podOf(o)
		i, known := at[node]
		switch {
		case known:
			s.Nodes[i].Pods = append(s.Nodes[i].Pods, p)
		case p.Health != console.Done:
			s.Pending = append(s.Pending, p)
		}
	}
	for _, n := range s.Nodes {
		slices.SortFunc(n.Pods, func(a, b console.Pod) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
		})
	}
}

// hopeless are reasons of a waiting container that do not pass by themselves, or that a
// person should know of at once.
var hopeless = map[string]bool{
	"CrashLoopBackOff": true, "ImagePullBackOff": true, "ErrImagePull": true, "InvalidImageName": true, "ErrImageNeverPull": true,
	"CreateContainerConfigError": true, "CreateContainerError": true, "RunContainerError": true,
}

// podOf judges a pod as a person would: what it says of its containers, not its phase alone.
func podOf(o unstructured.Unstructured) (p console.Pod, node string) {
	p = console.Pod{Namespace: o.GetNamespace(), Name: o.GetName(), Health: console.Starting}
	node, _, _ = unstructured.NestedString(o.Object, "spec", "nodeName")
	phase, _, _ := unstructured.NestedString(o.Object, "status", "phase")
	p.Reason, _, _ = unstructured.NestedString(o.Object, "status", "reason")
	ready := kube.StatusCondition(&o, "Ready").True()
	if c := kube.StatusCondition(&o, "PodScheduled"); c.Status == "False" {
		p.Reason = c.Message
	}
	waiting := ""
	for _, list := range []string{"initContainerStatuses", "containerStatuses"} {
		statuses, _, _ := unstructured.NestedSlice(o.Object, "status", list)
		for _, s := range statuses {
			m, _ := s.(map[string]any)
			if n, ok := m["restartCount"].(int64); ok {
				p.Restarts += int(n)
			}
			if r, _, _ := unstructured.NestedString(m, "state", "waiting", "reason"); r != "" && (waiting == "" || hopeless[r]) {
				waiting = r
			}
		}
	}
	if waiting != "" && waiting != "PodInitializing" || p.Reason == "" {
		p.Reason = cmp.Or(waiting, p.Reason)
	}
	switch {
	case phase == "Succeeded":
		p.Health, p.Reason = console.Done, ""
	case phase == "Failed":
		p.Health, p.Reason = console.Failing, cmp.Or(p.Reason, "failed")
	case hopeless[waiting]:
		p.Health = console.Failing
	case o.GetDeletionTimestamp() != nil:
		p.Reason = "terminating"
	case ready:
		p.Health, p.Reason = console.Good, ""
	case phase == "Running":
		p.Reason = cmp.Or(p.Reason, "not ready")
	}
	return p, node
}

// seeUsage reads what the nodes use from the metrics API, where somebody serves it.
func seeUsage(ctx context.Context, c *kube.Client, nodes []unstructured.Unstructured) (map[string][2]console.Usage, error) {
	data, err := c.RawGet(ctx, "/apis/metrics.k8s.io/v1beta1/nodes")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Usage    struct{ CPU, Memory string }
		}
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("usage of nodes: %w", err)
	}
	there := map[string]map[string]any{}
	for _, n := range nodes {
		there[n.GetName()], _, _ = unstructured.NestedMap(n.Object, "status", "allocatable")
	}
	out := map[string][2]console.Usage{}
	for _, i := range list.Items {
		cpu, memory := usageOf(i.Usage.CPU, there[i.Metadata.Name]["cpu"], dashboard.Cores), usageOf(i.Usage.Memory, there[i.Metadata.Name]["memory"], dashboard.Bytes)
		out[i.Metadata.Name] = [2]console.Usage{cpu, memory}
	}
	return out, nil
}

func usageOf(used string, of any, unit dashboard.Unit) console.Usage {
	whole, _ := of.(string)
	a, err := resource.ParseQuantity(used)
	if err != nil {
		return console.Usage{}
	}
	b, err := resource.ParseQuantity(whole)
	if err != nil || b.IsZero() {
		return console.Usage{}
	}
	return console.Usage{Known: true, Share: a.AsApproximateFloat64() / b.AsApproximateFloat64(), Text: unit.Format(a.AsApproximateFloat64())}
}
