package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var immutable = regexp.MustCompile(`(?i)immutable|forbidden: updates to|may not be changed|cannot change`)

// liveState is what has to be known before a set is applied or compared.
type liveState struct {
	objs     []*unstructured.Unstructured      // copies, with the namespaces that the server wants
	live     map[id]*unstructured.Unstructured // those that exist
	unserved map[schema.GroupVersionKind]bool  // kinds that a CRD of the set will define
	deferred []Ref                             // optional objects of unknown kinds
	own      Inventory                         // of the component
	recorded bool                              // whether there was one
	others   map[string]Inventory              // of the other components
	found    []Ref                             // objects that were there before the component
}

// liveState looks at the cluster, changes nothing, and refuses sets that would take objects
// from another component.
func (c *Client) liveState(ctx context.Context, component string, objs []*unstructured.Unstructured) (*liveState, error) {
	s := &liveState{live: map[id]*unstructured.Unstructured{}, unserved: map[schema.GroupVersionKind]bool{}}
	err := c.retry(ctx, "read the inventories", func(ctx context.Context) (err error) {
		s.others, err = c.Inventories(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.own, s.recorded = s.others[component]
	delete(s.others, component)
	if err := c.place(ctx, component, objs, s); err != nil {
		return nil, err
	}
	if err := c.look(ctx, component, s); err != nil {
		return nil, err
	}
	if err := s.conflicts(component); err != nil {
		return s, err
	}
	return s, c.adopt(component, s)
}

// place finds out which kinds the server knows and corrects namespaces.
func (c *Client) place(ctx context.Context, component string, objs []*unstructured.Unstructured, s *liveState) error {
	var mu sync.Mutex
	custom := definedKinds(objs)
	kinds := map[schema.GroupVersionKind]bool{}
	for _, o := range objs {
		kinds[o.GroupVersionKind()] = o.GetAnnotations()[AnnotationOptional] == "true"
	}
	namespaced := map[schema.GroupVersionKind]bool{}
	unknown := map[schema.GroupVersionKind]bool{}
	list := make([]schema.GroupVersionKind, 0, len(kinds))
	for gvk := range kinds {
		list = append(list, gvk)
	}
	slices.SortFunc(list, func(a, b schema.GroupVersionKind) int { return cmp.Compare(a.String(), b.String()) })
	err := each(ctx, list, func(ctx context.Context, _ int, gvk schema.GroupVersionKind) error {
		scope, ours := custom[gvk.GroupKind()]
		var m mapping
		err := c.retry(ctx, "look up "+gvk.Kind, func(ctx context.Context) (err error) {
			m, err = c.mapper.find(ctx, gvk.GroupVersion().String(), gvk.Kind)
			if isNoMatch(err) && (ours || kinds[gvk]) {
				return nil // no use in waiting for others
			}
			return err
		})
		mu.Lock()
		defer mu.Unlock()
		switch {
		case isNoMatch(err):
			return fmt.Errorf("the cluster knows no %s %s: a component that brings its CRD must be among the"+
				" needs, or annotate the object %s: \"true\"", gvk.GroupVersion(), gvk.Kind, AnnotationOptional)
		case err != nil:
			return err
		case m.resource.Resource != "":
			namespaced[gvk] = m.namespaced
		case ours:
			namespaced[gvk], s.unserved[gvk] = scope, true
		default:
			unknown[gvk] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, o := range objs {
		o = o.DeepCopy()
		gvk := o.GroupVersionKind()
		switch {
		case unknown[gvk]:
			if o.GetAnnotations()[AnnotationOptional] != "true" {
				return fmt.Errorf("%s: the cluster knows no such kind (%s)", refOf(o), gvk.GroupVersion())
			}
			s.deferred = append(s.deferred, refOf(o))
			continue
		case !namespaced[gvk]:
			o.SetNamespace("")
		case o.GetNamespace() == "":
			return fmt.Errorf("%s: has no namespace", refOf(o))
		}
		labels := o.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[LabelManagedBy], labels[LabelComponent] = FieldManager, component
		if c.owner.Environment != "" {
			labels[LabelEnvironment] = c.owner.Environment
		}
		o.SetLabels(labels)
		s.objs = append(s.objs, o)
	}
	sortObjects(s.objs)
	slices.SortFunc(s.deferred, compareRefs)
	return nil
}

// look reads the objects that exist: one list per kind finds what is ours already, only
// the rest is asked for one by one.
func (c *Client) look(ctx context.Context, component string, s *liveState) error {
	var mu sync.Mutex
	var kinds []schema.GroupVersionKind
	for _, o := range s.objs {
		if gvk := o.GroupVersionKind(); !s.unserved[gvk] && !slices.Contains(kinds, gvk) {
			kinds = append(kinds, gvk)
		}
	}
	selector := metav1.ListOptions{LabelSelector: LabelComponent + "=" + component}
	err := each(ctx, kinds, func(ctx context.Context, _ int, gvk schema.GroupVersionKind) error {
		return c.retry(ctx, "list "+gvk.Kind, func(ctx context.Context) error {
			items, err := c.list(ctx, gvk.GroupVersion().String(), gvk.Kind, "", selector)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, o := range items {
				s.live[refOf(&o).id()] = &o
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	var rest []Ref
	for _, o := range s.objs {
		if s.live[refOf(o).id()] == nil && !s.unserved[o.GroupVersionKind()] {
			rest = append(rest, refOf(o))
		}
	}
	return each(ctx, rest, func(ctx context.Context, _ int, r Ref) error {
		return c.retry(ctx, "read "+r.String(), func(ctx context.Context) error {
			o, err := c.Get(ctx, r.APIVersion, r.Kind, r.Namespace, r.Name)
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			s.live[r.id()] = o
			return nil
		})
	})
}

// conflicts finds objects that belong to somebody else.
func (s *liveState) conflicts(component string) error {
	var errs []error
	for _, o := range s.objs {
		r := refOf(o)
		owner := ""
		for other, inv := range s.others {
			if inv.has(r) && (owner == "" || other < owner) {
				owner = other
			}
		}
		if live := s.live[r.id()]; owner == "" && live != nil {
			if l := live.GetLabels()[LabelComponent]; l != component {
				owner = l
			}
		}
		if owner != "" {
			errs = append(errs, fmt.Errorf("%s belongs to component %s; rename it here, or remove it there and deploy %s first", r, owner, owner))
		}
	}
	return errors.Join(errs...)
}
