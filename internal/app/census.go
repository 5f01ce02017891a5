package app

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube"
)

// census is one look at the whole cluster. What could not be read is absent from it.
type census struct {
	nodes       []unstructured.Unstructured
	inventories map[string]kube.Inventory
	standings   map[string]kube.Standing
}

func takeCensus(ctx context.Context, c *kube.Client) census {
	var seen census
	var wg sync.WaitGroup
	wg.Go(func() {
		if nodes, err := c.List(ctx, "v1", "Node", "", ""); err == nil {
			seen.nodes = nodes
		}
	})
	wg.Go(func() {
		inventories, err := c.Inventories(ctx)
		if err != nil {
			return
		}
		seen.inventories = inventories
		if standings, err := c.Standings(ctx, inventories); err == nil {
			seen.standings = standings
		}
	})
	wg.Wait()
	return seen
}

func readyOf(nodes []unstructured.Unstructured) map[string]bool {
	ready := map[string]bool{}
	for _, n := range nodes {
		conditions, _, _ := unstructured.NestedSlice(n.Object, "status", "conditions")
		for _, c := range conditions {
			if m, ok := c.(map[string]any); ok && m["type"] == "Ready" {
				ready[n.GetName()] = m["status"] == "True"
			}
		}
	}
	return ready
}

// componentStates judges every component by the objects of its inventory, so that it
// needs no catalogue. What is not ready is looked at again, to say why. namespaces are those
// that components declare, where known.
func componentStates(ctx context.Context, c *kube.Client, seen census, namespaces map[string]string) []componentStatus {
	var mu sync.Mutex
	states := []componentStatus{}
	var g errgroup.Group
	for name, inv := range seen.inventories {
		g.Go(func() error {
			objs, namespace := inventoryObjects(inv)
			cs := componentStatus{Name: name, Namespace: cmp.Or(namespaces[name], namespace), State: "ready"}
			if !seen.standings[name].Ready {
				switch r := c.Ready(name, objs).Probe(ctx); r.State {
				case check.Running:
					cs.State, cs.Reason = "progressing", r.Message
				case check.Failed:
					cs.State, cs.Reason = "failed", r.Message
				}
			}
			if len(inv.Deferred) > 0 && cs.Reason == "" {
				cs.Reason = fmt.Sprintf("deferred until their CRD exists: %v", inv.Deferred)
			}
			mu.Lock()
			states = append(states, cs)
			mu.Unlock()
			return nil
		})
	}
	_ = g.Wait()
	slices.SortFunc(states, func(a, b componentStatus) int { return cmp.Compare(a.Name, b.Name) })
	return states
}

// inventoryObjects names the objects of an inventory and the namespace most of them
// are in.
func inventoryObjects(inv kube.Inventory) (objs []*unstructured.Unstructured, namespace string) {
	count := map[string]int{}
	for _, r := range inv.Objects {
		u := &unstructured.Unstructured{}
		u.SetAPIVersion(r.APIVersion)
		u.SetKind(r.Kind)
		u.SetNamespace(r.Namespace)
		u.SetName(r.Name)
		objs = append(objs, u)
		if count[r.Namespace]++; r.Namespace != "" && (namespace == "" || count[r.Namespace] > count[namespace]) {
			namespace = r.Namespace
		}
	}
	return objs, namespace
}
