package kubetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func (s *Server) delete(q request, live *unstructured.Unstructured) (int, any, error) {
	var opts metav1.DeleteOptions
	if len(q.body) > 0 {
		if err := json.Unmarshal(q.body, &opts); err != nil {
			return 0, nil, apierrors.NewBadRequest(err.Error())
		}
	}
	if p := opts.Preconditions; p != nil && p.UID != nil && *p.UID != live.GetUID() {
		return 0, nil, apierrors.NewConflict(q.kind.groupResource(), q.name,
			fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s)", *p.UID, live.GetUID()))
	}
	if q.dryRun() || len(opts.DryRun) > 0 {
		return http.StatusOK, shown(q.kind, live), nil
	}
	if opts.PropagationPolicy != nil && *opts.PropagationPolicy == metav1.DeletePropagationOrphan {
		s.orphan(live)
	}
	s.terminate(live)
	return http.StatusOK, shown(q.kind, live), nil
}

// terminate deletes an object, or marks it as long as finalizers or its contents hold it.
func (s *Server) terminate(o *unstructured.Unstructured) {
	if o = s.objects[keyOf(o)]; o == nil {
		return
	}
	if o.GetDeletionTimestamp() == nil {
		o = o.DeepCopy()
		now := metav1.Now().Rfc3339Copy()
		o.SetDeletionTimestamp(&now)
		s.version++
		o.SetResourceVersion(strconv.FormatInt(s.version, 10))
		s.objects[keyOf(o)] = o
	}
	if s.emptying[keyOf(o)] {
		return
	}
	s.emptying[keyOf(o)] = true
	left := s.empty(o)
	delete(s.emptying, keyOf(o))
	if len(left) > 0 {
		s.setStatus(o, remaining(o, left))
		return
	}
	if len(o.GetFinalizers()) == 0 {
		s.remove(o)
	}
}

// empty deletes what is in a namespace, or of a custom kind, and yields what is held.
func (s *Server) empty(o *unstructured.Unstructured) (left []string) {
	var within func(key) bool
	switch o.GroupVersionKind().GroupKind() {
	case schema.GroupKind{Kind: "Namespace"}:
		within = func(k key) bool { return k.namespace == o.GetName() }
	case schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}:
		within = func(k key) bool {
			return k.group == text(o, "spec", "group") && k.kind == text(o, "spec", "names", "kind")
		}
	default:
		return nil
	}
	for k, inner := range s.objects {
		if !within(k) {
			continue
		}
		s.terminate(inner)
		if s.objects[k] != nil {
			left = append(left, k.kind+" "+k.name)
		}
	}
	return left
}

func remaining(o *unstructured.Unstructured, left []string) map[string]any {
	message := "held by finalizers: " + strings.Join(left, ", ")
	if o.GetKind() == "Namespace" {
		return map[string]any{"phase": "Terminating", "conditions": []any{condition("NamespaceContentRemaining", true,
			"SomeResourcesRemain", message)}}
	}
	return map[string]any{"conditions": []any{condition("Terminating", true, "InstanceDeletionInProgress", message)}}
}

// remove forgets an object, all that it owns, and what it defined.
func (s *Server) remove(o *unstructured.Unstructured) {
	s.version++
	delete(s.objects, keyOf(o))
	for _, owned := range s.ownedBy(o) {
		s.terminate(owned)
	}
	if o.GroupVersionKind().GroupKind() == (schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}) {
		for _, k := range custom(o) {
			delete(s.kinds, k.gvk)
		}
	}
	// What waits for it to be gone.
	if ns := s.objects[key{"", "Namespace", "", o.GetNamespace()}]; ns != nil && ns.GetDeletionTimestamp() != nil {
		s.terminate(ns)
	}
	for _, crd := range s.all(schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}) {
		if crd.GetDeletionTimestamp() != nil && text(crd, "spec", "group") == o.GroupVersionKind().Group {
			s.terminate(crd)
		}
	}
}

func (s *Server) ownedBy(o *unstructured.Unstructured) (owned []*unstructured.Unstructured) {
	for _, other := range s.objects {
		for _, r := range other.GetOwnerReferences() {
			if r.UID == o.GetUID() {
				owned = append(owned, other)
			}
		}
	}
	return owned
}

func (s *Server) orphan(o *unstructured.Unstructured) {
	for _, owned := range s.ownedBy(o) {
		free := owned.DeepCopy()
		free.SetOwnerReferences(nil)
		s.objects[keyOf(free)] = free
	}
}
