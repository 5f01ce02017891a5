package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/orrery-dev/orrery/internal/catalog"
)

// annotationChanged is, of a Secret, when an entry of it got another value, and of a pod template the
// latest such time of what its pods read: a new one makes new pods. A time tells nothing of the value, which
// a checksum would to whoever guesses.
const annotationChanged = "orrery.dev/secrets-changed"

// restarter sets the annotation of pod templates. As an owner of fields of its own it takes nothing
// from whoever applies the rest.
const restarter = FieldManager + "-restart"

// RestartReaders has the pods made anew that read a generated Secret of the component, whichever component
// they are of, when a value of it was changed after they were. It says which workloads those are.
func (c *Client) RestartReaders(ctx context.Context, component catalog.Component) (restarted []Ref, err error) {
	ctx, cancel := bounded(ctx, defaultTimeout)
	defer cancel()
	changed := map[string]map[string]time.Time{} // namespace → name
	for _, s := range generated(component) {
		secret, err := c.Get(ctx, "v1", "Secret", s.Namespace, s.Name)
		if err != nil {
			return nil, fmt.Errorf("component %s: who reads Secret %s/%s: %w", component.Name, s.Namespace, s.Name, err)
		}
		if at := changedAt(secret.GetAnnotations()); !at.IsZero() {
			if changed[s.Namespace] == nil {
				changed[s.Namespace] = map[string]time.Time{}
			}
			changed[s.Namespace][s.Name] = at
		}
	}
	for _, namespace := range slices.Sorted(maps.Keys(changed)) {
		for _, kind := range []string{"DaemonSet", "Deployment", "StatefulSet"} {
			workloads, err := c.List(ctx, "apps/v1", kind, namespace, LabelManagedBy+"="+FieldManager)
			if err != nil {
				return restarted, fmt.Errorf("component %s: who reads its Secrets: %w", component.Name, err)
			}
			for i := range workloads {
				w := &workloads[i]
				if w.GetKind() == "" {
					w.SetKind(kind)
				}
				at := outdatedSince(w, changed[namespace])
				if at.IsZero() || len(w.GetOwnerReferences()) > 0 { // its owner would undo it
					continue
				}
				if err := c.restart(ctx, kind, w, at); err != nil {
					return restarted, fmt.Errorf("restart what reads a changed Secret: %w", err)
				}
				restarted = append(restarted, refOf(w))
			}
		}
	}
	return restarted, nil
}

// outdatedSince is when a Secret was changed last that the pods of a workload read; zero when they have seen it.
func outdatedSince(workload *unstructured.Unstructured, changed map[string]time.Time) (last time.Time) {
	template, _, _ := unstructured.NestedMap(workload.Object, "spec", "template")
	spec, _, _ := unstructured.NestedMap(template, "spec")
	for name, at := range changed {
		if at.After(last) && readsSecret(spec, name) {
			last = at
		}
	}
	annotations, _, _ := unstructured.NestedStringMap(template, "metadata", "annotations")
	if !last.After(changedAt(annotations)) || !last.After(workload.GetCreationTimestamp().Time) {
		return time.Time{}
	}
	return last
}

func (c *Client) restart(ctx context.Context, kind string, w *unstructured.Unstructured, at time.Time) error {
	r, err := c.resource(ctx, "apps/v1", kind, w.GetNamespace())
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{annotationChanged: at.UTC().Format(time.RFC3339Nano)}}}}})
	if err != nil {
		return err
	}
	_, err = r.Patch(ctx, w.GetName(), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: restarter})
	return err
}

// readsSecret reports whether pods of the spec have the Secret as files or variables.
func readsSecret(spec map[string]any, name string) bool {
	is := func(v any, path ...string) bool {
		m, _ := v.(map[string]any)
		got, _, _ := unstructured.NestedString(m, path...)
		return got == name
	}
	among := func(v any, field string, has func(any) bool) bool {
		m, _ := v.(map[string]any)
		all, _ := m[field].([]any)
		return slices.ContainsFunc(all, has)
	}
	inContainer := func(c any) bool {
		return among(c, "env", func(v any) bool { return is(v, "valueFrom", "secretKeyRef", "name") }) ||
			among(c, "envFrom", func(v any) bool { return is(v, "secretRef", "name") })
	}
	return among(spec, "containers", inContainer) || among(spec, "initContainers", inContainer) ||
		among(spec, "volumes", func(v any) bool {
			projected, _ := v.(map[string]any)
			return is(v, "secret", "secretName") ||
				among(projected["projected"], "sources", func(s any) bool { return is(s, "secret", "name") })
		})
}

// changedAt is the time of the annotation; zero when there is none, or one that somebody wrote by hand.
func changedAt(annotations map[string]string) time.Time {
	at, _ := time.Parse(time.RFC3339Nano, annotations[annotationChanged])
	return at
}

// noteChange writes down that an entry which was there has another value; others may have been added.
func noteChange(secret *unstructured.Unstructured, before, after map[string]string) {
	for key, value := range before {
		if after[key] != value {
			annotations := secret.GetAnnotations()
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations[annotationChanged] = time.Now().UTC().Format(time.RFC3339Nano)
			secret.SetAnnotations(annotations)
			return
		}
	}
}
