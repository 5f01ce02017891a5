package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// protected namespaces belong to Kubernetes, even when a component labels them: they stay, without
// those labels.
var protected = []string{"default", "kube-node-lease", "kube-public", "kube-system"}

// Remove deletes all that the component owns, in the reverse order of application, its
// generated secrets too, and waits until it is gone, or ctx ends, or 5 minutes when it
// has no deadline. Volumes that a StatefulSet claimed stay, with their data, unless
// their namespace goes. Removing what does not exist succeeds.
func (c *Client) Remove(ctx context.Context, component string) error {
	ctx, cancel := bounded(ctx, removeTimeout)
	defer cancel()
	if _, err := c.remove(ctx, component); err != nil {
		return fmt.Errorf("remove component %s: %w", component, err)
	}
	return nil
}

// RemoveOwned is [Client.Remove] in a cluster that is shared ([WithOwnership]). kept are the
// objects that stay, each with the reason.
func (c *Client) RemoveOwned(ctx context.Context, component string) (kept []string, err error) {
	ctx, cancel := bounded(ctx, removeTimeout)
	defer cancel()
	if kept, err = c.remove(ctx, component); err != nil {
		return kept, fmt.Errorf("remove component %s: %w", component, err)
	}
	return kept, nil
}

func (c *Client) remove(ctx context.Context, component string) (kept []string, err error) {
	var all map[string]Inventory
	err = c.retry(ctx, "read the inventories", func(ctx context.Context) (err error) {
		all, err = c.Inventories(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	doomed := all[component].Objects
	var namespaces []Ref
	if c.owner.Environment != "" {
		if doomed, namespaces, kept, err = c.sort(ctx, all[component]); err != nil {
			return kept, err
		}
	}
	if _, err := c.deleteAll(ctx, component, doomed, metav1.DeletePropagationForeground); err != nil {
		return kept, err
	}
	secrets, err := c.List(ctx, "v1", "Secret", "", LabelComponent+"="+component+","+labelGenerated+"=true,"+c.owner.selector())
	if err != nil {
		return kept, err
	}
	var refs []Ref
	for _, s := range secrets {
		refs = append(refs, refOf(&s))
	}
	if _, err := c.deleteAll(ctx, component, refs, metav1.DeletePropagationBackground); err != nil {
		return kept, err
	}
	for _, ns := range namespaces {
		why, err := c.inUse(ctx, ns.Name)
		if err != nil {
			return kept, err
		}
		if why != "" {
			kept = append(kept, ns.String()+": "+why)
			continue
		}
		if _, err := c.deleteAll(ctx, component, []Ref{ns}, metav1.DeletePropagationForeground); err != nil {
			return kept, err
		}
	}
	return kept, c.retry(ctx, "delete the inventory", func(ctx context.Context) error {
		return c.Delete(ctx, "v1", "ConfigMap", inventoryNamespace, c.owner.inventory(component), -1)
	})
}

// prune deletes what left the component, and says how many objects that were.
func (c *Client) prune(ctx context.Context, component string, left []Ref) (int, error) {
	return c.deleteAll(ctx, component, left, metav1.DeletePropagationBackground)
}

// deleteAll deletes objects of a component, rank by rank from the last to the first, and
// waits for each rank. Objects that carry another component's label are left alone.
func (c *Client) deleteAll(ctx context.Context, component string, refs []Ref, propagation metav1.DeletionPropagation) (int, error) {
	if err := c.checkNamespaces(ctx, component, refs); err != nil {
		return 0, err
	}
	var deleted atomic.Int64
	for r := ranks - 1; r >= 0; r-- {
		var stage []Ref
		for _, ref := range refs {
			if ref.rank() == r {
				stage = append(stage, ref)
			}
		}
		err := each(ctx, stage, func(ctx context.Context, _ int, ref Ref) error {
			did, err := c.deleteOne(ctx, component, ref, propagation)
			if did {
				deleted.Add(1)
			}
			return err
		})
		if err != nil {
			return int(deleted.Load()), err
		}
	}
	return int(deleted.Load()), nil
}

func (c *Client) deleteOne(ctx context.Context, component string, ref Ref, propagation metav1.DeletionPropagation) (bool, error) {
	if ref.Kind == "Namespace" && slices.Contains(protected, ref.Name) {
		return false, c.giveBack(ctx, component, ref)
	}
	if ref.rank() != rankWorkload {
		// Only workloads own what must be gone before the next rank (pods); waiting for
		// the owned objects of others would only depend on one more controller.
		propagation = metav1.DeletePropagationBackground
	}
	var live *unstructured.Unstructured
	err := c.retry(ctx, "delete "+ref.String(), func(ctx context.Context) (err error) {
		live, err = c.Get(ctx, ref.APIVersion, ref.Kind, ref.Namespace, ref.Name)
		if apierrors.IsNotFound(err) || isNoMatch(err) {
			live = nil
			return nil
		}
		if err != nil {
			return err
		}
		if owner := live.GetLabels()[LabelComponent]; owner != "" && owner != component {
			c.log.WarnContext(ctx, "left alone: it belongs to another component", "object", ref.String(), "component", owner)
			live = nil
			return nil
		}
		if c.foreign(live) != "" { // made anew by somebody else since we looked
			live = nil
			return nil
		}
		r, err := c.resource(ctx, ref.APIVersion, ref.Kind, ref.Namespace)
		if err != nil {
			return err
		}
		// The UID makes sure that what is deleted is what was looked at.
		uid := live.GetUID()
		err = r.Delete(ctx, ref.Name, metav1.DeleteOptions{PropagationPolicy: &propagation, Preconditions: &metav1.Preconditions{UID: &uid}})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	if err != nil || live == nil {
		return false, err
	}
	return true, c.gone(ctx, ref, live)
}

// giveBack takes what a component has set off an object that stays: labels, such as those of
// pod security.
func (c *Client) giveBack(ctx context.Context, component string, ref Ref) error {
	return c.retry(ctx, "take our labels off "+ref.String(), func(ctx context.Context) error {
		live, err := c.Get(ctx, ref.APIVersion, ref.Kind, ref.Namespace, ref.Name)
		if apierrors.IsNotFound(err) || err == nil && live.GetLabels()[LabelComponent] != component {
			return nil
		}
		if err != nil {
			return err
		}
		bare := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": ref.Name}}}
		bare.SetAPIVersion(ref.APIVersion)
		bare.SetKind(ref.Kind)
		_, err = c.serverSideApply(ctx, bare, false)
		return err
	})
}

// gone waits until that very object does not exist any more.
func (c *Client) gone(ctx context.Context, ref Ref, was *unstructured.Unstructured) error {
	return c.retry(ctx, "wait until "+ref.String()+" is gone", func(ctx context.Context) error {
		live, err := c.Get(ctx, ref.APIVersion, ref.Kind, ref.Namespace, ref.Name)
		switch {
		case apierrors.IsNotFound(err) || isNoMatch(err):
			return nil
		case err != nil:
			return err
		case live.GetUID() != was.GetUID():
			return nil
		}
		if ref.Kind == "CustomResourceDefinition" {
			if err := c.tryAgain(ctx, ref, live); err != nil {
				return err
			}
		}
		if f := live.GetFinalizers(); len(f) > 0 {
			return fmt.Errorf("%w: held by the finalizers %q", errNotYet, f)
		}
		if ref.Kind == "Namespace" {
			if c := StatusCondition(live, "NamespaceContentRemaining"); c.True() {
				return fmt.Errorf("%w: %s", errNotYet, c.Message)
			}
		}
		return fmt.Errorf("%w: it still exists", errNotYet)
	})
}

// tryAgain has the API server try again to delete the objects of a CRD when it says that it
// could not, as it does while the storage of their kind is still being set up. Its own next
// attempt may be lost to the note of the failure, and then nothing happens until it looks
// at all CRDs again, after up to five minutes (crd_finalizer.go of Kubernetes 1.37). Any
// change of the CRD makes it try.
func (c *Client) tryAgain(ctx context.Context, ref Ref, crd *unstructured.Unstructured) error {
	if c := StatusCondition(crd, "Terminating"); c.Reason != "InstanceDeletionFailed" && c.Reason != "InstanceDeletionCheck" {
		return nil
	}
	r, err := c.resource(ctx, ref.APIVersion, ref.Kind, "")
	if err != nil {
		return err
	}
	change := fmt.Appendf(nil, `{"metadata":{"annotations":{"orrery.dev/try-again":%q}}}`, crd.GetResourceVersion())
	_, err = r.Patch(ctx, ref.Name, types.MergePatchType, change, metav1.PatchOptions{FieldManager: FieldManager})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// checkNamespaces refuses to delete a namespace that holds another component's objects.
func (c *Client) checkNamespaces(ctx context.Context, component string, refs []Ref) error {
	var doomed []string
	for _, r := range refs {
		if r.Kind == "Namespace" && r.APIVersion == "v1" && !slices.Contains(protected, r.Name) {
			doomed = append(doomed, r.Name)
		}
	}
	if doomed == nil {
		return nil
	}
	all, err := c.Inventories(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, ns := range doomed {
		var users []string
		for other, inv := range all {
			if other != component && slices.ContainsFunc(inv.Objects, func(r Ref) bool { return r.Namespace == ns }) {
				users = append(users, other)
			}
		}
		if slices.Sort(users); users != nil {
			errs = append(errs, fmt.Errorf("namespace %s holds objects of the components %q; remove them first", ns, users))
		}
	}
	return errors.Join(errs...)
}
