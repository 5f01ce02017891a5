package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// Ownership says what a client may touch in a cluster that others use, too. The zero value is
// for a cluster of its own.
type Ownership struct {
	// Environment is on every object and inventory, so that several share a cluster. What is
	// there without it belongs to somebody else.
	Environment string
	// Adopt takes over objects that others manage, but not those of other environments.
	Adopt bool
	// DeleteData: claims of volumes go with what they belong to.
	DeleteData bool
}

// selector finds what is of the environment.
func (o Ownership) selector() string {
	if o.Environment == "" {
		return "!" + LabelEnvironment
	}
	return LabelEnvironment + "=" + o.Environment
}

// inventory is the name of a component's; a dot is in no name of an environment.
func (o Ownership) inventory(component string) string {
	if o.Environment == "" {
		return inventoryPrefix + component
	}
	return inventoryPrefix + o.Environment + "." + component
}

func (o Ownership) labels(m map[string]any) map[string]any {
	if o.Environment != "" {
		m[LabelEnvironment] = o.Environment
	}
	return m
}

// ErrTaken is wrapped when an object is there that somebody else manages.
var ErrTaken = errors.New("exists already")

func errTaken(r Ref, by string) error {
	return fmt.Errorf("%s %w, and %s manages it: --adopt takes it over;"+
		" existing.provides of orrery.yaml leaves the component to the cluster", r, ErrTaken, by)
}

// foreign says who else manages an object; "" when it is the environment's.
func (c *Client) foreign(live *unstructured.Unstructured) string {
	of := live.GetLabels()[LabelEnvironment]
	switch {
	case c.owner.Environment == "" || of == c.owner.Environment:
		return ""
	case of != "":
		return "environment " + of
	}
	for _, f := range live.GetManagedFields() {
		if f.Manager != FieldManager && f.Subresource == "" {
			return f.Manager
		}
	}
	return "somebody else"
}

// otherEnvironment: another environment of ours has it, which nobody takes over.
func (c *Client) otherEnvironment(live *unstructured.Unstructured) bool {
	of := live.GetLabels()[LabelEnvironment]
	return of != "" && of != c.owner.Environment
}

// adopt refuses what somebody else manages, or notes that it was found.
func (c *Client) adopt(component string, s *liveState) error {
	s.found = slices.Clone(s.own.Found)
	var errs []error
	for _, o := range s.objs {
		r := refOf(o)
		live := s.live[r.id()]
		if live == nil {
			continue
		}
		by := c.foreign(live)
		switch {
		case by == "":
		case !c.owner.Adopt || c.otherEnvironment(live):
			errs = append(errs, errTaken(r, by))
		case !holds(s.found, r):
			s.found = append(s.found, r)
		}
	}
	slices.SortFunc(s.found, compareRefs)
	return errors.Join(errs...)
}

// Taken are the errors that applying a component would end with because of what is there
// already. What cannot be read is not taken.
func (c *Client) Taken(ctx context.Context, objs []*unstructured.Unstructured) error {
	return each(ctx, objs, func(ctx context.Context, _ int, o *unstructured.Unstructured) error {
		live, err := c.Get(ctx, o.GetAPIVersion(), o.GetKind(), o.GetNamespace(), o.GetName())
		if err != nil {
			return nil
		}
		if by := c.foreign(live); by != "" && (!c.owner.Adopt || c.otherEnvironment(live)) {
			return errTaken(refOf(o), by)
		}
		return nil
	})
}

// sort tells what of an inventory goes: namespaces apart, since what is in them has a say. What
// was found is released, and stays.
func (c *Client) sort(ctx context.Context, inv Inventory) (doomed, namespaces []Ref, kept []string, err error) {
	var mu sync.Mutex
	err = each(ctx, inv.Objects, func(ctx context.Context, _ int, r Ref) error {
		if holds(inv.Found, r) {
			if err := c.release(ctx, r); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			kept = append(kept, r.String()+": it was there before")
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case r.Kind == "PersistentVolumeClaim" && !c.owner.DeleteData:
			kept = append(kept, r.String()+": it has data, which --delete-data deletes")
		case r.Kind == "Namespace" && r.APIVersion == "v1":
			namespaces = append(namespaces, r)
		default:
			doomed = append(doomed, r)
		}
		return nil
	})
	slices.Sort(kept)
	return doomed, namespaces, kept, err
}

// releaseAll releases those of refs that were found, and returns the others.
func (c *Client) releaseAll(ctx context.Context, refs, found []Ref) (others []Ref, err error) {
	for _, r := range refs {
		switch {
		case holds(found, r):
			err = errors.Join(err, c.release(ctx, r))
		case c.owner.Environment == "" || r.Kind != "PersistentVolumeClaim" || c.owner.DeleteData:
			others = append(others, r)
		}
	}
	return others, err
}

// release takes our labels off an object that stays.
func (c *Client) release(ctx context.Context, ref Ref) error {
	return c.retry(ctx, "release "+ref.String(), func(ctx context.Context) error {
		live, err := c.Get(ctx, ref.APIVersion, ref.Kind, ref.Namespace, ref.Name)
		if apierrors.IsNotFound(err) || isNoMatch(err) {
			return nil
		}
		if err != nil || c.foreign(live) != "" {
			return err
		}
		r, err := c.resource(ctx, ref.APIVersion, ref.Kind, ref.Namespace)
		if err != nil {
			return err
		}
		change := fmt.Appendf(nil, `{"metadata":{"labels":{%q:null,%q:null,%q:null}}}`, LabelEnvironment, LabelComponent, LabelManagedBy)
		_, err = r.Patch(ctx, ref.Name, types.MergePatchType, change, metav1.PatchOptions{FieldManager: FieldManager})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

// contents are the kinds that keep a namespace: what holds data, and what somebody would miss.
var contents = []Ref{
	{APIVersion: "v1", Kind: "PersistentVolumeClaim"}, {APIVersion: "v1", Kind: "Pod"}, {APIVersion: "v1", Kind: "Service"},
	{APIVersion: "apps/v1", Kind: "Deployment"}, {APIVersion: "apps/v1", Kind: "StatefulSet"}, {APIVersion: "apps/v1", Kind: "DaemonSet"},
	{APIVersion: "batch/v1", Kind: "Job"}, {APIVersion: "batch/v1", Kind: "CronJob"}, {APIVersion: "v1", Kind: "Secret"}, {APIVersion: "v1", Kind: "ConfigMap"},
}

// inUse says why a namespace of the environment must not be deleted; "" when it may be.
func (c *Client) inUse(ctx context.Context, namespace string) (why string, err error) {
	for _, kind := range contents {
		if kind.Kind == "PersistentVolumeClaim" && c.owner.DeleteData {
			continue
		}
		items, err := c.List(ctx, kind.APIVersion, kind.Kind, namespace, "")
		if err != nil {
			return "", err
		}
		for _, o := range items {
			o.SetAPIVersion(kind.APIVersion)
			o.SetKind(kind.Kind)
			if why := c.misses(&o); why != "" {
				return why, nil
			}
		}
	}
	return "", nil
}

// misses says why an object keeps its namespace.
func (c *Client) misses(o *unstructured.Unstructured) string {
	if o.GetKind() == "PersistentVolumeClaim" {
		return refOf(o).String() + " has data, which --delete-data deletes"
	}
	kind, _, _ := unstructured.NestedString(o.Object, "type")
	switch {
	case len(o.GetOwnerReferences()) > 0 || o.GetDeletionTimestamp() != nil: // goes with its owner
	case o.GetKind() == "ConfigMap" && (o.GetName() == "kube-root-ca.crt" || o.GetName() == "openshift-service-ca.crt"):
	case o.GetKind() == "Secret" && kind == "kubernetes.io/service-account-token":
	case c.foreign(o) != "":
		return refOf(o).String() + " is somebody else's"
	}
	return ""
}

// Allowed asks whether the person may do something with a resource, in all namespaces.
func (c *Client) Allowed(ctx context.Context, verb, apiVersion, kind string) (allowed bool, err error) {
	m, err := c.mapper.find(ctx, apiVersion, kind)
	if err != nil {
		return false, err
	}
	r, err := c.resource(ctx, "authorization.k8s.io/v1", "SelfSubjectAccessReview", "")
	if err != nil {
		return false, err
	}
	answer, err := r.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
		"spec": map[string]any{"resourceAttributes": map[string]any{"verb": verb, "group": m.resource.Group, "resource": m.resource.Resource}},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask what you may do: %w", err)
	}
	allowed, _, _ = unstructured.NestedBool(answer.Object, "status", "allowed")
	return allowed, nil
}
