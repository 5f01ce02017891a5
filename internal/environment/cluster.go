package environment

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
)

// clusterState is one look at the whole cluster. What could not be read is absent from it.
type clusterState struct {
	unread      error        // why something is absent; one reason of several
	client      *kube.Client // that looked; nil when none could
	nodes       []unstructured.Unstructured
	services    []unstructured.Unstructured
	inventories map[string]kube.Inventory
	observed    map[string]kube.Observed
	// applications of what was handed over, by component.
	applications map[string]gitops.Status
}

func lookAt(ctx context.Context, c *kube.Client) clusterState {
	seen := clusterState{client: c}
	unread := make(chan error, 4)
	var wg sync.WaitGroup
	wg.Go(func() {
		if nodes, err := c.List(ctx, "v1", "Node", "", ""); err == nil {
			seen.nodes = nodes
		} else {
			unread <- err
		}
	})
	wg.Go(func() {
		if services, err := c.List(ctx, "v1", "Service", "", ""); err == nil {
			seen.services = services
		} else {
			unread <- err
		}
	})
	wg.Go(func() {
		inventories, err := c.Inventories(ctx)
		if err != nil {
			unread <- err
			return
		}
		seen.inventories = inventories
		observed, err := c.Observe(ctx, inventories)
		if err != nil {
			unread <- err
		} else {
			seen.observed = observed
		}
		if len(handed(inventories)) == 0 {
			return
		}
		if apps, err := c.List(ctx, appVersion, "Application", gitops.Namespace, ""); err == nil {
			seen.applications = map[string]gitops.Status{}
			for _, a := range apps {
				seen.applications[a.GetName()] = gitops.StatusOf(&a)
			}
		}
	})
	wg.Wait()
	select {
	case seen.unread = <-unread:
	default:
	}
	return seen
}

// ReadyNodes says of nodes whether they are Ready, by name.
func ReadyNodes(nodes []unstructured.Unstructured) map[string]bool {
	ready := map[string]bool{}
	for _, n := range nodes {
		ready[n.GetName()] = kube.StatusCondition(&n, "Ready").True()
	}
	return ready
}

// components judges every component by the objects of its inventory, so that it needs no
// catalogue. What is not ready is looked at again, to say why. namespaces are those that
// components declare, where known; skipped are those that were left out.
func (seen clusterState) components(ctx context.Context, namespaces map[string]string, skipped map[string]plan.Cause) []ComponentStatus {
	var mu sync.Mutex
	states := []ComponentStatus{}
	_ = inParallel(seen.inventories, func(name string, inv kube.Inventory) error {
		objs, namespace := inventoryObjects(inv)
		cs := ComponentStatus{Name: name, Namespace: cmp.Or(namespaces[name], namespace), State: ComponentReady}
		if !seen.observed[name].Ready {
			switch r := seen.client.Ready(name, objs).Probe(ctx); r.State {
			case check.Running:
				cs.State, cs.Reason = ComponentProgressing, r.Message
			case check.Failed:
				cs.State, cs.Reason = ComponentFailed, r.Message
			}
		}
		if app, known := seen.applications[name]; known && cs.Reason == "" && !app.Good() {
			cs.State, cs.Reason = ComponentProgressing, "Argo CD: "+strings.TrimPrefix(app.Line(), name+" is ")
			if app.Failed() {
				cs.State = ComponentFailed
			}
		}
		if len(inv.Deferred) > 0 && cs.Reason == "" {
			cs.Reason = fmt.Sprintf("deferred until their CRD exists: %v", inv.Deferred)
		}
		mu.Lock()
		defer mu.Unlock()
		states = append(states, cs)
		return nil
	})
	for name, cause := range skipped {
		i := slices.IndexFunc(states, func(c ComponentStatus) bool { return c.Name == name })
		switch {
		case i < 0:
			states = append(states, ComponentStatus{Name: name, Namespace: namespaces[name], State: ComponentSkipped, Reason: cause.String(), Cause: cause})
		case states[i].Reason == "":
			states[i].Reason, states[i].Cause = "as before, its new version is skipped: "+cause.String(), cause
		}
	}
	slices.SortFunc(states, func(a, b ComponentStatus) int { return cmp.Compare(a.Name, b.Name) })
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

// current looks at the cluster and tells which components are deployed just as the catalogue
// has them, and ready. What cannot be told is not current: deploying again is harmless.
func (p *Platform) current(ctx context.Context) (clusterState, map[string]bool) {
	current := map[string]bool{}
	client, err := p.kube(ctx)
	if err != nil {
		return clusterState{}, current
	}
	seen := lookAt(ctx, client)
	components := map[string]catalog.Component{}
	for _, c := range p.Components {
		components[c.Name] = c
	}
	var mu sync.Mutex
	_ = inParallel(components, func(name string, c catalog.Component) error {
		ok := p.isCurrent(ctx, seen, c)
		mu.Lock()
		defer mu.Unlock()
		current[name] = ok
		return nil
	})
	return seen, current
}

// isCurrent compares what was applied with the catalogue: by what it was rendered from, or
// else by what comes of rendering it. Only what does not stand as it was left is asked for
// object by object. Generated secrets are in no manifest, and have to be there.
func (p *Platform) isCurrent(ctx context.Context, seen clusterState, c catalog.Component) bool {
	applied, found := seen.inventories[c.Name], seen.observed[c.Name]
	if lacking, err := seen.client.LackingSecrets(ctx, c); err != nil || len(lacking) > 0 {
		return false
	}
	if lacking, err := seen.client.LackingCertificates(ctx, c.Name, applied); err != nil || lacking {
		return false
	}
	if applied.Applier != "" { // what its objects are is the other's to say
		return true
	}
	if inputs := p.renderInput(ctx, c).Inputs(p.tree()); inputs != "" && inputs == applied.Inputs && found.Intact && found.Ready {
		return true
	}
	set, err := p.Render(ctx, c)
	if err != nil || applied.Hash != kube.Hash(set.Objects) {
		return false
	}
	if !found.Intact {
		if drift, err := seen.client.Diff(ctx, c.Name, set.Objects); err != nil || len(drift) > 0 {
			return false
		}
	}
	return found.Ready || seen.client.Ready(c.Name, set.Objects).Probe(ctx).State == check.Succeeded
}

// Diff is what deploying a component would change: its generated secrets, then its objects.
func (p *Platform) Diff(ctx context.Context, client *kube.Client, c catalog.Component) ([]kube.Change, error) {
	set, err := p.Render(ctx, c)
	if err != nil {
		return nil, err
	}
	secrets, err := client.LackingSecrets(ctx, c)
	if err != nil {
		return nil, err
	}
	changes, err := client.Diff(ctx, c.Name, set.Objects)
	return append(secrets, changes...), err
}

// nodesAsWanted tells whether every node is Ready and says where it is and what it is: a
// command line that was killed may have left labels undone. Of nodes that somebody else made
// only Ready counts.
func (p *Platform) nodesAsWanted(nodes []unstructured.Unstructured) bool {
	ready := ReadyNodes(nodes)
	if !p.Kind.Nodes {
		return len(nodes) > 0 && !slices.ContainsFunc(nodes, func(n unstructured.Unstructured) bool { return !ready[n.GetName()] })
	}
	labels := map[string]map[string]string{}
	for _, n := range nodes {
		labels[n.GetName()] = n.GetLabels()
	}
	return !slices.ContainsFunc(p.Spec.Topology(), func(n spec.Node) bool {
		has := labels[n.Name]
		_, server := has["node-role.kubernetes.io/control-plane"]
		return !ready[n.Name] || has["topology.kubernetes.io/zone"] != n.Zone || has["rack"] != n.Rack || server != (n.Role == spec.RoleServer)
	})
}
