package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json" // integers stay integers

	"github.com/orrery-dev/orrery/internal/check"
)

// Observed is how the objects of a component are found.
type Observed struct {
	// Intact: every object that was applied is there, nobody has changed what was applied, and
	// what was deferred still waits for its kind.
	Intact bool
	// Ready: every object is there and ready, as [Client.Ready] sees it, but for what still waits.
	Ready bool
}

// Observe looks at the objects of all components with one list per kind, which tells what
// has become of them for a fraction of what it costs to ask for each what an apply would
// change. That nobody touched them is known from the server's own account of who set which
// field (managedFields): whatever somebody else changes, or takes away, leaves our share
// of it. What is not found intact or ready is only not proven so: [Client.Diff] and
// [Client.Ready] tell more.
func (c *Client) Observe(ctx context.Context, inventories map[string]Inventory) (map[string]Observed, error) {
	ctx, cancel := bounded(ctx, defaultTimeout)
	defer cancel()
	var kinds []schema.GroupVersionKind
	for _, inv := range inventories {
		for _, r := range inv.Objects {
			if gvk := schema.FromAPIVersionAndKind(r.APIVersion, r.Kind); !slices.Contains(kinds, gvk) {
				kinds = append(kinds, gvk)
			}
		}
	}
	var mu sync.Mutex
	live := map[id]*unstructured.Unstructured{}
	err := each(ctx, kinds, func(ctx context.Context, _ int, gvk schema.GroupVersionKind) error {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		items, err := c.listOurs(ctx, gvk)
		if isNoMatch(err) {
			return nil // its objects are gone with it
		}
		mu.Lock()
		defer mu.Unlock()
		for i := range items {
			live[refOf(&items[i]).id()] = &items[i]
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	pods, err := c.podsBehind(ctx, slices.Collect(maps.Values(live)))
	if err != nil {
		return nil, err
	}
	served, err := c.servedKinds(ctx, inventories)
	if err != nil {
		return nil, err
	}
	observed := map[string]Observed{}
	claims := readiness{client: c}
	for name, inv := range inventories {
		// An apply that was not finished, or that left something which can be made now, has no say.
		due := slices.ContainsFunc(inv.Deferred, func(r Ref) bool { return served[r.kind()] })
		s := Observed{Intact: inv.Hash != "" && !due, Ready: !due}
		for _, r := range inv.Objects {
			o := live[r.id()]
			mark := inv.Marks[r.id().String()]
			s.Intact = s.Intact && o != nil && mark != "" && mark == markOf(o)
			s.Ready = s.Ready && o != nil && claims.stands(ctx, o) && overtaken(o, pods) == ""
		}
		observed[name] = s
	}
	return observed, nil
}

// servedKinds says which of the kinds that components wait for the cluster knows by now.
func (c *Client) servedKinds(ctx context.Context, inventories map[string]Inventory) (map[schema.GroupVersionKind]bool, error) {
	served := map[schema.GroupVersionKind]bool{}
	for _, inv := range inventories {
		for _, r := range inv.Deferred {
			if _, asked := served[r.kind()]; asked {
				continue
			}
			_, err := c.mapper.find(ctx, r.APIVersion, r.Kind)
			if err != nil && !isNoMatch(err) {
				return nil, err
			}
			served[r.kind()] = err == nil
		}
	}
	return served, nil
}

// stands judges an object by itself.
func (p *readiness) stands(ctx context.Context, o *unstructured.Unstructured) bool {
	if still[o.GroupVersionKind().GroupKind()] {
		return o.GetDeletionTimestamp() == nil
	}
	v := judge(o, o, false)
	if v.state == check.Running {
		v = p.storage(ctx, v)
	}
	return v.state == check.Succeeded
}

// still are kinds whose objects are ready once they are there, and of which only the metadata
// is read. A CRD that was established when it was applied stays so.
var still = map[schema.GroupKind]bool{
	{Kind: "ConfigMap"}:      true,
	{Kind: "Secret"}:         true,
	{Kind: "ServiceAccount"}: true,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}:                         true,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}:                  true,
	{Group: "rbac.authorization.k8s.io", Kind: "Role"}:                                true,
	{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"}:                         true,
	{Group: "networking.k8s.io", Kind: "NetworkPolicy"}:                               true,
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}:                 true,
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicyBinding"}: true,
}

// listOurs reads the objects of a kind that belong to any component.
func (c *Client) listOurs(ctx context.Context, gvk schema.GroupVersionKind) ([]unstructured.Unstructured, error) {
	m, err := c.mapper.find(ctx, gvk.GroupVersion().String(), gvk.Kind)
	if err != nil {
		return nil, err
	}
	path := "/apis/" + gvk.GroupVersion().String() + "/" + m.resource.Resource
	if gvk.Group == "" {
		path = "/api/" + gvk.Version + "/" + m.resource.Resource
	}
	accept := anyJSON
	if still[gvk.GroupKind()] {
		accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
	}
	body, err := c.raw(ctx, http.MethodGet, path+"?labelSelector="+LabelComponent, accept, "", nil)
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []map[string]any `json:"items"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("list %s: %w", gvk.Kind, err)
	}
	items := make([]unstructured.Unstructured, len(list.Items))
	for i, o := range list.Items {
		items[i].Object = o
		items[i].SetGroupVersionKind(gvk) // items of a list do not say
	}
	return items, nil
}

// markOf tells one state of our share of an object from every other: which object it is,
// the fields that we own, and when we last changed one of them.
func markOf(o *unstructured.Unstructured) string {
	fields, _, _ := unstructured.NestedFieldNoCopy(o.Object, "metadata", "managedFields")
	entries, _ := fields.([]any)
	for _, e := range entries {
		e, _ := e.(map[string]any)
		if e["manager"] != FieldManager || e["operation"] != "Apply" || e["subresource"] != nil {
			continue
		}
		text, err := json.Marshal([]any{o.GetUID(), e["time"], e["fieldsV1"]})
		if err != nil {
			return ""
		}
		sum := sha256.Sum256(text)
		return hex.EncodeToString(sum[:8])
	}
	return ""
}

// String is what the inventory calls an object by.
func (i id) String() string { return strings.Join([]string{i.group, i.kind, i.namespace, i.name}, "/") }
