package kube

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// ApplierArgoCD is who applies a component that was handed over to Argo CD ([Inventory.Applier]).
const ApplierArgoCD = "argocd"

// ErrHandedOver is wrapped when a component is to be applied that somebody else applies.
var ErrHandedOver = errors.New("it is handed over")

const (
	argoManager  = "argocd-controller"
	argoTracking = "argocd.argoproj.io/tracking-id"
)

// HandOver gives a component to Argo CD: from now on it owns the fields that Orrery applied, and
// nobody here applies the component until [Client.TakeBack]. objs are what Argo CD is going to apply.
// Only who owns fields changes, so that nothing is restarted. It may be repeated, with other objects.
func (c *Client) HandOver(ctx context.Context, component string, objs []*unstructured.Unstructured) error {
	return c.handOver(ctx, component, objs, ApplierArgoCD, FieldManager, argoManager)
}

// HandedOver notes that Argo CD has applied objs, and pruned what else the component had.
func (c *Client) HandedOver(ctx context.Context, component string, objs []*unstructured.Unstructured) error {
	ctx, cancel := bounded(ctx, defaultTimeout)
	defer cancel()
	inv := Inventory{Applier: ApplierArgoCD, Objects: c.placed(ctx, nil, objs)}
	all, err := c.Inventories(ctx)
	if err != nil {
		return fmt.Errorf("component %s: %w", component, err)
	}
	inv.Found = slices.DeleteFunc(all[component].Found, func(r Ref) bool { return !inv.has(r) })
	return c.record(ctx, component, inv)
}

// placed adds objs to refs, each once, as the server names them.
func (c *Client) placed(ctx context.Context, refs []Ref, objs []*unstructured.Unstructured) []Ref {
	for _, o := range objs {
		r := refOf(o)
		if m, err := c.mapper.find(ctx, r.APIVersion, r.Kind); err == nil && !m.namespaced {
			r.Namespace = ""
		}
		if !holds(refs, r) {
			refs = append(refs, r)
		}
	}
	return refs
}

// TakeBack undoes [Client.HandOver]. The next apply compares everything, and prunes what Argo CD
// had been told of since.
func (c *Client) TakeBack(ctx context.Context, component string) error {
	return c.handOver(ctx, component, nil, "", argoManager, FieldManager)
}

func (c *Client) handOver(ctx context.Context, component string, objs []*unstructured.Unstructured, applier, from, to string) error {
	ctx, cancel := bounded(ctx, defaultTimeout)
	defer cancel()
	fail := func(err error) error { return fmt.Errorf("hand over component %s: %w", component, err) }
	all, err := c.Inventories(ctx)
	if err != nil {
		return fail(err)
	}
	inv := all[component]
	inv.Objects = c.placed(ctx, inv.Objects, objs)
	// Nothing that is there now is what the next apply leaves, so it has no hash.
	inv.Hash, inv.Inputs, inv.Marks = "", "", nil
	inv.Applier = applier
	steps := []func() error{
		func() error { return c.record(ctx, component, inv) },
		func() error { return c.changeManagers(ctx, inv.Objects, from, to) },
	}
	if applier == "" { // while fields are given back, it is still the other's
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fail(err)
		}
	}
	return nil
}

func (c *Client) changeManagers(ctx context.Context, refs []Ref, from, to string) error {
	return each(ctx, refs, func(ctx context.Context, _ int, r Ref) error {
		return c.retry(ctx, "change who manages "+r.String(), func(ctx context.Context) error {
			live, err := c.Get(ctx, r.APIVersion, r.Kind, r.Namespace, r.Name)
			if apierrors.IsNotFound(err) || isNoMatch(err) {
				return nil
			}
			if err != nil {
				return err
			}
			change := managedBy(live, from, to)
			if change == nil {
				return nil
			}
			text, err := json.Marshal(map[string]any{"metadata": change})
			if err != nil {
				return err
			}
			client, err := c.resource(ctx, r.APIVersion, r.Kind, r.Namespace)
			if err != nil {
				return err
			}
			_, err = client.Patch(ctx, r.Name, types.MergePatchType, text, metav1.PatchOptions{FieldManager: FieldManager})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		})
	})
}

// managedBy is the metadata that makes to the owner of what from applied; nil when there is nothing
// to change. The version is part of it: whoever changed the object meanwhile has it looked at again.
func managedBy(live *unstructured.Unstructured, from, to string) map[string]any {
	fields := live.GetManagedFields()
	applied := func(manager string) func(metav1.ManagedFieldsEntry) bool {
		return func(f metav1.ManagedFieldsEntry) bool {
			return f.Manager == manager && f.Operation == metav1.ManagedFieldsOperationApply && f.Subresource == ""
		}
	}
	i := slices.IndexFunc(fields, applied(from))
	if i < 0 {
		return nil
	}
	if slices.ContainsFunc(fields, applied(to)) { // of a hand-over that was interrupted, or an apply since
		fields = slices.Delete(fields, i, i+1)
	} else {
		fields[i].Manager = to
	}
	change := map[string]any{"resourceVersion": live.GetResourceVersion(), "managedFields": fields}
	if to == FieldManager && live.GetAnnotations()[argoTracking] != "" {
		change["annotations"] = map[string]any{argoTracking: nil}
	}
	return change
}

// ApplyObjects applies objects that belong to no component and do not need each other. Nothing is
// pruned, and no inventory knows of them.
func (c *Client) ApplyObjects(ctx context.Context, objs []*unstructured.Unstructured) error {
	ctx, cancel := bounded(ctx, defaultTimeout)
	defer cancel()
	return each(ctx, objs, func(ctx context.Context, _ int, o *unstructured.Unstructured) error {
		return c.retry(ctx, "apply "+refOf(o).String(), func(ctx context.Context) error {
			_, err := c.serverSideApply(ctx, o, false)
			return err
		})
	})
}

// MergePatch changes fields of one object.
func (c *Client) MergePatch(ctx context.Context, ref Ref, change map[string]any) error {
	text, err := json.Marshal(change)
	if err != nil {
		return err
	}
	r, err := c.resource(ctx, ref.APIVersion, ref.Kind, ref.Namespace)
	if err != nil {
		return err
	}
	if _, err := r.Patch(ctx, ref.Name, types.MergePatchType, text, metav1.PatchOptions{FieldManager: FieldManager}); err != nil {
		return fmt.Errorf("change %s: %w", ref, err)
	}
	return nil
}

// LastManager is who wrote an object's fields last, and when, if that was after Argo CD applied it and not
// by Orrery or a controller of Kubernetes; else "".
func LastManager(live *unstructured.Unstructured) (manager string, at time.Time) {
	for _, f := range live.GetManagedFields() {
		if f.Subresource == "status" || f.Time == nil || f.Time.Time.Before(at) {
			continue
		}
		manager, at = f.Manager, f.Time.Time
	}
	switch manager {
	case argoManager, FieldManager, "kube-controller-manager":
		return "", time.Time{}
	}
	return manager, at
}

// Kind is what the server knows of a kind.
type Kind struct {
	Group, Resource string
	Namespaced      bool
}

// Kind asks the server; the error of an unknown one satisfies meta.IsNoMatchError.
func (c *Client) Kind(ctx context.Context, apiVersion, kind string) (Kind, error) {
	m, err := c.mapper.find(ctx, apiVersion, kind)
	return Kind{m.resource.Group, m.resource.Resource, m.namespaced}, err
}

// Why says why an object is not ready, as its pods and events have it; "" when they say nothing.
// hopeless: waiting does not help, since admission refuses its pods, or Kubernetes itself has begun to
// wait longer and longer.
func (c *Client) Why(ctx context.Context, ref Ref) (reason string, hopeless bool) {
	live, err := c.Get(ctx, ref.APIVersion, ref.Kind, ref.Namespace, ref.Name)
	if err != nil {
		return "", false
	}
	if reason = c.refusal(ctx, ref, live); reason != "" {
		return reason, true
	}
	reason, hopeless = c.why(ctx, ref, live)
	pods, err := c.podsOf(ctx, ref, live)
	if err != nil {
		return strings.TrimSpace(reason), hopeless
	}
	for _, pod := range pods {
		hopeless = hopeless || pod.DeletionTimestamp == nil && backsOff(pod)
	}
	return strings.TrimSpace(reason), hopeless
}

// refusal is why admission denies a workload pods, as it is now; "" when it does not. Deployments and
// ReplicaSets have a condition for it, others only events, which stay after what they are about.
func (c *Client) refusal(ctx context.Context, ref Ref, live *unstructured.Unstructured) string {
	seen, known, _ := unstructured.NestedInt64(live.Object, "status", "observedGeneration")
	if known && seen < live.GetGeneration() {
		return ""
	}
	message := ""
	switch ref.Kind {
	case "Deployment", "ReplicaSet":
		if c := StatusCondition(live, "ReplicaFailure"); c.True() {
			message = c.Message
		}
	case "StatefulSet", "DaemonSet", "Job":
		if e := c.newestWarning(ctx, ref.Namespace, ref.Kind, ref.Name); e.Reason == "FailedCreate" && !eventTime(e).Before(changed(live)) {
			message = e.Message
		}
	}
	if !Denied(message) {
		return ""
	}
	return podsRefused(message)
}

// changed is when somebody last wrote anything but the object's status.
func changed(live *unstructured.Unstructured) time.Time {
	at := live.GetCreationTimestamp().Time
	for _, f := range live.GetManagedFields() {
		if f.Subresource == "" && f.Time != nil && f.Time.After(at) {
			at = f.Time.Time
		}
	}
	return at
}

// crashes are how often a container may end before that is what it does: one may have come before what
// it needs.
const crashes = 2

// backsOff: an image was asked for several times, or a container was started several times, in vain.
func backsOff(pod corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses), func(s corev1.ContainerStatus) bool {
		if s.State.Waiting == nil {
			return false
		}
		switch s.State.Waiting.Reason {
		case "ImagePullBackOff", "InvalidImageName":
			return true
		case "CrashLoopBackOff":
			return s.RestartCount >= crashes
		}
		return false
	})
}

// RefOf names an object.
func RefOf(o *unstructured.Unstructured) Ref { return refOf(o) }

// SecretData is what a Secret holds, decoded; what cannot be decoded is left out.
func SecretData(secret *unstructured.Unstructured) map[string][]byte {
	values := map[string][]byte{}
	data, _, _ := unstructured.NestedStringMap(secret.Object, "data")
	for key, text := range data {
		if value, err := base64.StdEncoding.DecodeString(text); err == nil {
			values[key] = value
		}
	}
	return values
}
