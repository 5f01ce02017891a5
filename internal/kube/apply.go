package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Applied counts what an apply did.
type Applied struct {
	Created   int `json:"created"`
	Changed   int `json:"changed"`
	Unchanged int `json:"unchanged"`
	Pruned    int `json:"pruned"`
	// Deferred are optional objects whose kind the cluster does not know yet.
	Deferred []Ref `json:"deferred,omitempty"`
}

// Apply makes the cluster hold objs, and nothing else, for the component: server-side
// apply in the order of ranks, then objects that the inventory knows and objs does not
// are deleted. The inventory is written before anything is made, so that a crash at any
// point loses track of nothing; repeating the call completes it.
//
// Objects of another component (by inventory or label) are never touched: that is an
// error, found before anything is done. Passing troubles (conflicts, a restarting API
// server, a webhook that is not ready) are retried until ctx ends, or for 2 minutes
// when it has no deadline.
func (c *Client) Apply(ctx context.Context, component string, objs []*unstructured.Unstructured) (Applied, error) {
	return c.ApplyFrom(ctx, component, "", objs)
}

// ApplyFrom is [Client.Apply] of objects that were rendered from known inputs. The inventory
// keeps them, so that the same inputs need not be rendered again to tell what is current.
func (c *Client) ApplyFrom(ctx context.Context, component, inputs string, objs []*unstructured.Unstructured) (Applied, error) {
	ctx, cancel := bounded(ctx, defaultTimeout)
	defer cancel()
	applied, err := c.apply(ctx, component, inputs, objs)
	if err != nil {
		return applied, fmt.Errorf("apply component %s: %w", component, err)
	}
	return applied, nil
}

func (c *Client) apply(ctx context.Context, component, inputs string, objs []*unstructured.Unstructured) (Applied, error) {
	s, err := c.liveState(ctx, component, objs)
	if err != nil {
		return Applied{}, err
	}
	if s.own.Applier != "" {
		return Applied{}, fmt.Errorf("%w to Argo CD: 'orrery gitops push' changes it, 'orrery gitops disable' takes it back", ErrHandedOver)
	}
	result := Applied{Deferred: s.deferred}
	wanted := make([]Ref, len(s.objs))
	for i, o := range s.objs {
		wanted[i] = refOf(o)
	}
	hash := Hash(objs)
	union := Inventory{Objects: wanted}
	var left []Ref
	for _, r := range s.own.Objects {
		if !union.has(r) {
			left = append(left, r)
		}
	}
	union.Objects = slices.Concat(wanted, left)
	union.Found = s.found
	final := Inventory{Hash: hash, Inputs: inputs, Objects: wanted, Marks: map[string]string{}, Deferred: s.deferred}
	for _, r := range s.found {
		if final.has(r) {
			final.Found = append(final.Found, r)
		}
	}
	if !s.recorded || !sameSet(s.own, final) {
		if err := c.record(ctx, component, union); err != nil {
			return result, err
		}
	}
	if err := c.applyRanks(ctx, s, &result, final.Marks); err != nil {
		return result, err
	}
	if left, err = c.releaseAll(ctx, left, s.found); err != nil {
		return result, err
	}
	if result.Pruned, err = c.prune(ctx, component, left); err != nil {
		return result, err
	}
	if s.recorded && sameSet(s.own, final) && s.own.Inputs == inputs && maps.Equal(s.own.Marks, final.Marks) {
		return result, nil
	}
	return result, c.record(ctx, component, final)
}

func sameSet(a, b Inventory) bool {
	if a.Hash != b.Hash || len(a.Objects) != len(b.Objects) || !slices.Equal(a.Found, b.Found) || !slices.Equal(a.Deferred, b.Deferred) {
		return false
	}
	return !slices.ContainsFunc(b.Objects, func(r Ref) bool { return !a.has(r) })
}

// applyRanks puts the mark of each object into marks.
func (c *Client) applyRanks(ctx context.Context, s *liveState, result *Applied, marks map[string]string) error {
	var mu sync.Mutex
	for r := range ranks {
		var stage []*unstructured.Unstructured
		for _, o := range s.objs {
			if refOf(o).rank() == r {
				stage = append(stage, o)
			}
		}
		err := each(ctx, stage, func(ctx context.Context, _ int, o *unstructured.Unstructured) error {
			before := s.live[refOf(o).id()]
			after, err := c.applyOne(ctx, o, before)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			marks[refOf(o).id().String()] = markOf(after)
			switch {
			case before == nil || before.GetUID() != after.GetUID():
				result.Created++
			case before.GetResourceVersion() != after.GetResourceVersion():
				result.Changed++
			default:
				result.Unchanged++
			}
			return nil
		})
		if err == nil && r == rankCRD {
			err = each(ctx, stage, func(ctx context.Context, _ int, o *unstructured.Unstructured) error { return c.established(ctx, o) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) applyOne(ctx context.Context, o, before *unstructured.Unstructured) (after *unstructured.Unstructured, err error) {
	ref := refOf(o)
	if before != nil && before.GetDeletionTimestamp() != nil {
		// Applying to an object that is going away succeeds, and then it is gone.
		if err := c.gone(ctx, ref, before); err != nil {
			return nil, err
		}
	} else if before != nil && before.GetAnnotations()[AnnotationReplace] != o.GetAnnotations()[AnnotationReplace] {
		c.log.WarnContext(ctx, "replaced, for what it was and what it becomes cannot run beside each other", "object", ref.String())
		if _, err := c.deleteOne(ctx, o.GetLabels()[LabelComponent], ref, metav1.DeletePropagationForeground); err != nil {
			return nil, err
		}
	}
	err = c.retry(ctx, "apply "+ref.String(), func(ctx context.Context) error {
		after, err = c.serverSideApply(ctx, o, false)
		if apierrors.IsInvalid(err) && before != nil && mentionsImmutable(err) {
			return fmt.Errorf("%w; delete the object (its data too, if it has any) to have it made anew", err)
		}
		return err
	})
	return after, err
}

func mentionsImmutable(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	return immutable.MatchString(status.Status().Message)
}

// established waits until the server serves the kind of a CRD.
func (c *Client) established(ctx context.Context, crd *unstructured.Unstructured) error {
	return c.retry(ctx, "wait for "+refOf(crd).String(), func(ctx context.Context) error {
		live, err := c.Get(ctx, crd.GetAPIVersion(), crd.GetKind(), "", crd.GetName())
		if err != nil {
			return err
		}
		if c := StatusCondition(live, "NamesAccepted"); c.Status == "False" {
			return fmt.Errorf("its names are taken: %s", c.Message)
		}
		if c := StatusCondition(live, "Established"); !c.True() {
			return fmt.Errorf("%w Established: %s", errNotYet, c.says())
		}
		group, _, _ := unstructured.NestedString(live.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(live.Object, "spec", "names", "kind")
		versions, _, _ := unstructured.NestedSlice(live.Object, "spec", "versions")
		for _, v := range versions {
			v, _ := v.(map[string]any)
			if served, _ := v["served"].(bool); !served {
				continue
			}
			name, _ := v["name"].(string)
			gv := schema.GroupVersion{Group: group, Version: name}
			c.mapper.forget(gv)
			if _, err := c.mapper.find(ctx, gv.String(), kind); err != nil {
				return fmt.Errorf("%w served: %w", errNotYet, err)
			}
		}
		return nil
	})
}
