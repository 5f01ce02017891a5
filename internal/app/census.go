package app

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/spec"
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

// current tells which components are deployed just as the catalogue has them, and
// ready, whether all nodes are Ready, and what is installed at all. What cannot be told
// is not current: deploying again is harmless.
func (p *platform) current(ctx context.Context) (current map[string]bool, nodesReady bool, installed []string) {
	current = map[string]bool{}
	client, err := p.client()
	if err != nil {
		return current, false, nil
	}
	found := takeCensus(ctx, client)
	var mu sync.Mutex
	var g errgroup.Group
	for _, c := range p.components {
		g.Go(func() error {
			ok := p.isCurrent(ctx, client, c, found)
			mu.Lock()
			current[c.Name] = ok
			mu.Unlock()
			return nil
		})
	}
	_ = g.Wait()
	p.census = found
	return current, p.nodesAsWanted(found.nodes), slices.Sorted(maps.Keys(found.inventories))
}

// isCurrent compares what was applied with the catalogue: by what it was rendered from, or
// else by what comes of rendering it. Only what does not stand as it was left is asked for
// object by object.
func (p *platform) isCurrent(ctx context.Context, client *kube.Client, c catalog.Component, found census) bool {
	applied, standing := found.inventories[c.Name], found.standings[c.Name]
	if inputs := p.renderInput(c).Inputs(p.tree()); inputs != "" && inputs == applied.Inputs && standing.Intact && standing.Ready {
		return true
	}
	set, err := p.render(ctx, c)
	if err != nil || applied.Hash != kube.Hash(set.objs) {
		return false
	}
	if !standing.Intact {
		if drift, err := client.Diff(ctx, c.Name, set.objs); err != nil || len(drift) > 0 {
			return false
		}
	}
	return standing.Ready || client.Ready(c.Name, set.objs).Probe(ctx).State == check.Succeeded
}

// nodesAsWanted tells whether every node is Ready and says where it is and what it is: a
// command line that was killed may have left labels undone.
func (p *platform) nodesAsWanted(nodes []unstructured.Unstructured) bool {
	ready := readyOf(nodes)
	labels := map[string]map[string]string{}
	for _, n := range nodes {
		labels[n.GetName()] = n.GetLabels()
	}
	return !slices.ContainsFunc(p.spec.Topology(), func(n spec.Node) bool {
		has := labels[n.Name]
		_, server := has["node-role.kubernetes.io/control-plane"]
		return !ready[n.Name] || has["topology.kubernetes.io/zone"] != n.Zone || has["rack"] != n.Rack || server != (n.Role == spec.RoleServer)
	})
}
