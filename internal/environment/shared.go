package environment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/pinned"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

// withdraw removes from somebody else's cluster what the inventories of the environment name,
// in reverse waves, and proves that no inventory is left.
func (e *Environment) withdraw(ctx context.Context) error {
	obs, err := e.Observe(ctx)
	if err != nil {
		return err
	}
	if obs.Kubeconfig == "" { // nothing was begun
		return nil
	}
	client, err := e.connect(obs.Kubeconfig)
	if err != nil {
		return err
	}
	defer client.Close()
	inventories, err := client.Inventories(ctx)
	if err != nil {
		return err
	}
	for _, wave := range slices.Backward(e.waves(inventories)) {
		var g errgroup.Group
		for _, name := range wave {
			g.Go(func() error {
				kept, err := client.RemoveOwned(ctx, name)
				for _, what := range kept {
					e.request.Sink.Emit(ui.Event{Type: ui.TypeNotice, Phase: "teardown", Message: "left in the cluster: " + what})
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	left, err := client.Inventories(ctx)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("the cluster still has inventories of %v", slices.Sorted(maps.Keys(left)))
	}
	return err
}

// waves are the installed components in the order of their needs. Those that the catalogue, if
// there is one, does not know come behind all that they may need; those with namespaces and
// kinds, which others may be in, come first.
func (e *Environment) waves(inventories map[string]kube.Inventory) [][]string {
	known := map[string]catalog.Component{}
	if cat, err := e.Location.Catalog(); err == nil {
		known = cat.Components
	}
	var components []catalog.Component
	var base, rest []string
	for _, name := range slices.Sorted(maps.Keys(inventories)) {
		c, ok := known[name]
		switch {
		case ok:
			components = append(components, c)
		case slices.ContainsFunc(inventories[name].Objects, func(r kube.Ref) bool { return r.Kind == "Namespace" || r.Kind == "CustomResourceDefinition" }):
			base = append(base, name)
		default:
			rest = append(rest, name)
		}
	}
	waves := [][]string{base}
	for _, wave := range catalog.Waves(components) {
		var names []string
		for _, c := range wave {
			names = append(names, c.Name)
		}
		waves = append(waves, names)
	}
	return append(waves, rest)
}

// topology is the nodes that manifests and checks count: those of the spec, where they were
// found to be, or those that somebody else's cluster has.
func (p *Platform) topology(ctx context.Context) []spec.Node {
	if p.Kind.Addresses {
		return p.Spec.Topology()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.nodes != nil {
		return p.nodes
	}
	obs, err := p.Observe(ctx)
	if p.Kind.Nodes {
		nodes := p.Spec.Topology()
		for i := range nodes {
			at := slices.IndexFunc(obs.Nodes, func(n driver.Node) bool { return n.Name == nodes[i].Name })
			if at < 0 || obs.Nodes[at].PodCIDR == "" {
				return nodes // it is asked for again
			}
			nodes[i].Address, _ = netip.ParseAddr(obs.Nodes[at].Address)
			nodes[i].PodCIDR, _ = netip.ParsePrefix(obs.Nodes[at].PodCIDR)
		}
		p.nodes = nodes
		return nodes
	}
	if err != nil {
		return []spec.Node{}
	}
	for i, n := range obs.Nodes {
		address, _ := netip.ParseAddr(n.Address)
		p.nodes = append(p.nodes, spec.Node{Name: n.Name, Role: string(n.Role), Zone: n.Zone, Rack: n.Rack, Address: address, Index: i + 1})
	}
	return p.nodes
}

// findPublished notes the digest of every image, and says which of them images.registry does
// not have.
func (p *Platform) findPublished(ctx context.Context) (missing map[string]plan.Cause) {
	missing = map[string]plan.Cause{}
	digests := map[string]string{}
	var mu sync.Mutex
	_ = inParallel(p.Parts.Images, func(name string, img catalog.Image) error {
		digest, err := p.digest(ctx, name)
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			missing[name] = plan.Cause{Kind: plan.CauseUnreachable, Image: name, Root: err.Error() + "; 'orrery images push' pushes it"}
			return nil
		}
		digests[name] = digest
		return nil
	})
	for name, digest := range digests {
		p.note(image.Built{Name: name, Version: p.Parts.Images[name].Version, Digest: digest})
	}
	maps.Copy(missing, p.Supply.Unpublished(ctx, digests, supply.ProbeTime*5))
	return missing
}

// PreflightConditions are the driver's, those of components that need much of the host, and those of a
// cluster that somebody else made.
func (p *Platform) PreflightConditions(ctx context.Context) []check.Condition {
	conditions := p.Driver.Preflight(ctx)
	if p.Kind.Nodes {
		return append(conditions, aioConditions(p.Components, os.ReadFile)...)
	}
	rendered := sync.OnceValues(func() (map[string][]*unstructured.Unstructured, error) {
		all := map[string][]*unstructured.Unstructured{}
		for _, c := range p.Components {
			set, err := p.Render(ctx, c)
			if errors.Is(err, pinned.ErrNotReachable) {
				continue // which the plan leaves out, and says so
			}
			if err != nil {
				return nil, err
			}
			all[c.Name] = set.Objects
		}
		return all, nil
	})
	look := func(name string, do func(context.Context, *kube.Client, map[string][]*unstructured.Unstructured) check.Result) check.Condition {
		return check.Condition{Component: "cluster", Name: name, Probe: func(ctx context.Context) check.Result {
			client, err := p.guest(ctx)
			if err != nil {
				return check.Fail(err)
			}
			defer client.Close()
			objs, err := rendered()
			if err != nil {
				return check.Fail(err)
			}
			return do(ctx, client, objs)
		}}
	}
	return append(conditions, look("rights", rights), look("owners", owners), look("requests", requests), look("volumes", volumes))
}

// guest connects to somebody else's cluster, also before there is a kubeconfig in the state.
func (p *Platform) guest(ctx context.Context) (*kube.Client, error) {
	if g, ok := p.Driver.(driver.Guest); ok {
		data, err := g.Credentials(ctx)
		if err != nil {
			return nil, err
		}
		return kube.ConnectWith(data, kube.WithLog(p.request.Log), kube.WithOwnership(p.ownership()), kube.WithSecrets(p.secretValues))
	}
	return p.Kube(ctx)
}

// verbs that applying, waiting and removing take.
var verbs = []string{"get", "list", "create", "patch", "delete"}

// rights: the person may do all that up and down do, with every kind that would be applied.
func rights(ctx context.Context, c *kube.Client, components map[string][]*unstructured.Unstructured) check.Result {
	kinds := map[schema.GroupVersionKind]bool{{Version: "v1", Kind: "ConfigMap"}: true, {Version: "v1", Kind: "Secret"}: true}
	for _, objs := range components {
		for _, o := range objs {
			kinds[o.GroupVersionKind()] = true
		}
	}
	var mu sync.Mutex
	var denied []string
	later := 0
	var g errgroup.Group
	g.SetLimit(8)
	for gvk := range kinds {
		for _, verb := range verbs {
			g.Go(func() error {
				ok, err := c.Allowed(ctx, verb, gvk.GroupVersion().String(), gvk.Kind)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case meta.IsNoMatchError(err):
					later++ // a component brings it
					return nil
				case err == nil && !ok:
					denied = append(denied, verb+" "+gvk.Kind)
				}
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return check.Fail(err)
	}
	if len(denied) > 0 {
		slices.Sort(denied)
		return check.Fail(fmt.Errorf("you may not %s in all namespaces: ask who runs the cluster for the rights", strings.Join(denied, ", ")))
	}
	if later > 0 {
		return check.OK("%d kinds; %d more that come with their CRD", len(kinds)-later/len(verbs), later/len(verbs))
	}
	return check.OK("%d kinds", len(kinds))
}

// owners: nobody else manages what would be applied, CRDs above all.
func owners(ctx context.Context, c *kube.Client, components map[string][]*unstructured.Unstructured) check.Result {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(components)) {
		if err := c.Taken(ctx, components[name]); err != nil {
			errs = append(errs, fmt.Errorf("component %s: %w", name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return check.Fail(err)
	}
	return check.OK("nothing of it is managed by others")
}

// requests: the nodes have what the pods ask for.
func requests(ctx context.Context, c *kube.Client, components map[string][]*unstructured.Unstructured) check.Result {
	nodes, err := c.List(ctx, "v1", "Node", "", "")
	if err != nil {
		return check.Fail(err)
	}
	pods, err := c.List(ctx, "v1", "Pod", "", "")
	if err != nil {
		return check.Fail(err)
	}
	wanted, free := map[string]*resource.Quantity{}, map[string]*resource.Quantity{}
	for _, n := range nodes {
		add(free, n.Object, 1, "status", "allocatable")
	}
	for _, p := range pods {
		if phase, _, _ := unstructured.NestedString(p.Object, "status", "phase"); phase != "Succeeded" && phase != "Failed" && p.GetLabels()[kube.LabelComponent] == "" {
			containers(p.Object, -1, free, "spec", "containers")
		}
	}
	for _, objs := range components {
		for _, o := range objs {
			containers(o.Object, copies(o, len(nodes)), wanted, "spec", "template", "spec", "containers")
		}
	}
	var short, has []string
	for _, name := range []string{"cpu", "memory"} {
		w, f := cmp.Or(wanted[name], &resource.Quantity{}), cmp.Or(free[name], &resource.Quantity{})
		has = append(has, fmt.Sprintf("%s %s of %s", name, w, f))
		if w.Cmp(*f) > 0 {
			short = append(short, fmt.Sprintf("%s: %s are asked for, %s are free", name, w, f))
		}
	}
	if short != nil {
		return check.Fail(fmt.Errorf("the nodes lack %s", strings.Join(short, "; ")))
	}
	return check.OK("%s", strings.Join(has, ", "))
}

// copies is how many pods a workload has.
func copies(o *unstructured.Unstructured, nodes int) int64 {
	if o.GetKind() == "DaemonSet" {
		return int64(nodes)
	}
	if n, ok, _ := unstructured.NestedInt64(o.Object, "spec", "replicas"); ok {
		return n
	}
	return 1
}

func containers(o map[string]any, times int64, sum map[string]*resource.Quantity, path ...string) {
	list, _, _ := unstructured.NestedSlice(o, path...)
	for _, c := range list {
		if c, ok := c.(map[string]any); ok {
			add(sum, c, times, "resources", "requests")
		}
	}
}

func add(sum map[string]*resource.Quantity, o map[string]any, times int64, path ...string) {
	m, _, _ := unstructured.NestedMap(o, path...)
	for _, name := range []string{"cpu", "memory"} {
		q, err := resource.ParseQuantity(fmt.Sprint(m[name]))
		if err != nil {
			continue
		}
		if sum[name] == nil {
			sum[name] = &resource.Quantity{Format: q.Format}
		}
		q.Mul(times)
		sum[name].Add(q)
	}
}

// volumes: there is the storage class that claims name, or a default one.
func volumes(ctx context.Context, c *kube.Client, components map[string][]*unstructured.Unstructured) check.Result {
	classes, err := c.List(ctx, "storage.k8s.io/v1", "StorageClass", "", "")
	if err != nil {
		return check.Fail(err)
	}
	have, names := map[string]bool{}, []string{}
	for _, s := range classes {
		have[s.GetName()] = true
		names = append(names, s.GetName())
		if s.GetAnnotations()["storageclass.kubernetes.io/is-default-class"] == "true" {
			have[""] = true
		}
	}
	var claims []any
	for _, objs := range components {
		for _, o := range objs {
			switch o.GetKind() {
			case "StorageClass":
				have[o.GetName()] = true
				if o.GetAnnotations()["storageclass.kubernetes.io/is-default-class"] == "true" {
					have[""] = true
				}
			case "StatefulSet":
				list, _, _ := unstructured.NestedSlice(o.Object, "spec", "volumeClaimTemplates")
				claims = append(claims, list...)
			case "PersistentVolumeClaim":
				claims = append(claims, o.Object)
			}
		}
	}
	var lacking []string
	for _, claim := range claims {
		m, _ := claim.(map[string]any)
		class, _, _ := unstructured.NestedString(m, "spec", "storageClassName")
		if !have[class] {
			lacking = append(lacking, cmp.Or(class, "(a default one)"))
		}
	}
	if slices.Sort(lacking); lacking != nil {
		return check.Fail(fmt.Errorf("there is no storage class %s; there are: %s", strings.Join(slices.Compact(lacking), ", "), cmp.Or(strings.Join(names, ", "), "none")))
	}
	return check.OK("%d claims; classes: %s", len(claims), cmp.Or(strings.Join(names, ", "), "none"))
}
