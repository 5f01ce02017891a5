package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Inventories live in the cluster, so that a process that did not apply a component can
// prune and remove it.
const (
	inventoryNamespace = "kube-system"
	inventoryPrefix    = "orrery-inventory-"
	inventoryLabel     = "orrery.dev/inventory" // value: the component
	inventoryKey       = "inventory.json"
	// inventoryVersion 2 has Applier. What does not need it is still written as version 1.
	inventoryVersion = 2
)

// Inventory is what a component owns in the cluster.
type Inventory struct {
	// Hash of the rendered set that was applied completely; empty while an apply is
	// under way, or after one that failed.
	Hash string `json:"hash"`
	// Inputs is what [RenderInput.Inputs] said of the set that has Hash; empty when it said
	// nothing.
	Inputs string `json:"inputs,omitempty"`
	// Objects that exist, or may exist when Hash is empty.
	Objects []Ref `json:"objects"`
	// Marks are the states in which the server left the objects ("group/kind/namespace/name"),
	// for [Client.Observe].
	Marks map[string]string `json:"marks,omitempty"`
	// Deferred are optional objects whose kind did not exist when the set was applied. Applying
	// again when it does makes them.
	Deferred []Ref `json:"waiting,omitempty"`
	// Found are those of Objects that were there before, and were adopted. They outlive the
	// component.
	Found []Ref `json:"found,omitempty"`
	// Applier is who else applies the component ([ApplierArgoCD]); empty: Orrery does.
	Applier string `json:"applier,omitempty"`
}

type storedInventory struct {
	Version int `json:"version"`
	Inventory
	// Names is how an older orrery wrote Deferred down.
	Names []string `json:"deferred,omitempty"`
}

func (i Inventory) has(r Ref) bool { return holds(i.Objects, r) }

func holds(refs []Ref, r Ref) bool {
	return slices.ContainsFunc(refs, func(o Ref) bool { return o.id() == r.id() })
}

// Inventories reads what every component owns, by component.
func (c *Client) Inventories(ctx context.Context) (map[string]Inventory, error) {
	maps, err := c.list(ctx, "v1", "ConfigMap", inventoryNamespace, metav1.ListOptions{LabelSelector: inventoryLabel + "," + c.owner.selector()})
	if err != nil {
		return nil, fmt.Errorf("read the inventories: %w", err)
	}
	all := map[string]Inventory{}
	for _, m := range maps {
		component := m.GetLabels()[inventoryLabel]
		text, _, err := unstructured.NestedString(m.Object, "data", inventoryKey)
		if err != nil {
			return nil, fmt.Errorf("inventory of %s: %w", component, err)
		}
		var s storedInventory
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			return nil, fmt.Errorf("inventory of %s (ConfigMap %s/%s) cannot be read: %w;"+
				" delete it and deploy the component again: objects that left the catalogue meanwhile then stay",
				component, inventoryNamespace, m.GetName(), err)
		}
		if s.Version > inventoryVersion {
			return nil, fmt.Errorf("inventory of %s was written by a newer orrery (format %d, this one knows %d);"+
				" use that one", component, s.Version, inventoryVersion)
		}
		if len(s.Names) > 0 { // whose kinds are not known: it is applied again
			s.Hash = ""
		}
		all[component] = s.Inventory
	}
	return all, nil
}

// record writes the inventory of a component.
func (c *Client) record(ctx context.Context, component string, inv Inventory) error {
	inv.Objects = slices.Clone(inv.Objects)
	slices.SortFunc(inv.Objects, compareRefs)
	version := 1
	if inv.Applier != "" {
		version = 2
	}
	text, err := json.Marshal(storedInventory{Version: version, Inventory: inv})
	if err != nil {
		return err
	}
	m := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{
			"name": c.owner.inventory(component), "namespace": inventoryNamespace,
			"labels": c.owner.labels(map[string]any{inventoryLabel: component, LabelManagedBy: FieldManager}),
		},
		"data": map[string]any{inventoryKey: string(text)},
	}}
	return c.retry(ctx, "write the inventory of "+component, func(ctx context.Context) error {
		_, err := c.serverSideApply(ctx, m, false)
		return err
	})
}

// serverSideApply applies one object. Force: what the catalogue says wins over other
// managers of the same field; fields that it does not mention stay theirs.
func (c *Client) serverSideApply(ctx context.Context, obj *unstructured.Unstructured, dryRun bool) (*unstructured.Unstructured, error) {
	r, err := c.resource(ctx, obj.GetAPIVersion(), obj.GetKind(), obj.GetNamespace())
	if err != nil {
		return nil, err
	}
	opts := metav1.ApplyOptions{FieldManager: FieldManager, Force: true}
	if dryRun {
		opts.DryRun = []string{metav1.DryRunAll}
	}
	return r.Apply(ctx, obj.GetName(), obj, opts)
}

func isNoMatch(err error) bool { return meta.IsNoMatchError(err) }
