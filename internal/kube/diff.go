package kube

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"

	"github.com/rogpeppe/go-internal/diff"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// What a [Change] does.
const (
	ActionCreate = "create"
	ActionChange = "change"
	ActionPrune  = "prune"
)

// Change is what applying would do to one object.
type Change struct {
	Object Ref    `json:"object"`
	Action string `json:"action"` // ActionCreate, ActionChange or ActionPrune
	// Diff is unified text of the YAML before and after, without what the server keeps
	// for itself (managedFields, status, …). Data of Secrets is redacted.
	Diff string `json:"diff"`
}

// Diff tells what Apply would change, in the order of application, then what it would
// prune. The API server is asked to do everything but to store it (dry run), so that
// defaults and admission are part of the answer. Deferred objects are left out.
func (c *Client) Diff(ctx context.Context, component string, objs []*unstructured.Unstructured) ([]Change, error) {
	ctx, cancel := bounded(ctx, defaultTimeout)
	defer cancel()
	changes, err := c.diff(ctx, component, objs)
	if err != nil {
		return nil, fmt.Errorf("diff of component %s: %w", component, err)
	}
	return changes, nil
}

func (c *Client) diff(ctx context.Context, component string, objs []*unstructured.Unstructured) ([]Change, error) {
	s, err := c.liveState(ctx, component, objs)
	if err != nil {
		return nil, err
	}
	found := make([]*Change, len(s.objs))
	namespaces := map[string]bool{} // that the set makes itself
	for _, o := range s.objs {
		if r := refOf(o); r.Kind == "Namespace" && s.live[r.id()] == nil {
			namespaces[r.Name] = true
		}
	}
	err = each(ctx, s.objs, func(ctx context.Context, i int, o *unstructured.Unstructured) error {
		r := refOf(o)
		before, after := s.live[r.id()], o
		if !s.unserved[o.GroupVersionKind()] && !namespaces[r.Namespace] {
			err := c.retry(ctx, "dry run of "+r.String(), func(ctx context.Context) error {
				dry, err := c.serverSideApply(ctx, o, true)
				if apierrors.IsNotFound(err) {
					return nil // its namespace is made by another component
				}
				if err == nil {
					after = dry
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		text, err := unified(r, before, after)
		if err != nil || text == "" {
			return err
		}
		found[i] = &Change{r, ActionChange, text}
		if before == nil {
			found[i].Action = ActionCreate
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var changes []Change
	for _, f := range found {
		if f != nil {
			changes = append(changes, *f)
		}
	}
	pruned, err := c.wouldPrune(ctx, component, s)
	return append(changes, pruned...), err
}

func (c *Client) wouldPrune(ctx context.Context, component string, s *liveState) ([]Change, error) {
	var left []Ref
	for _, r := range s.own.Objects {
		if !slices.ContainsFunc(s.objs, func(o *unstructured.Unstructured) bool { return refOf(o).id() == r.id() }) {
			left = append(left, r)
		}
	}
	slices.SortFunc(left, func(a, b Ref) int { return compareRefs(b, a) })
	var mu sync.Mutex
	texts := map[id]string{}
	err := each(ctx, left, func(ctx context.Context, _ int, r Ref) error {
		return c.retry(ctx, "read "+r.String(), func(ctx context.Context) error {
			live, err := c.Get(ctx, r.APIVersion, r.Kind, r.Namespace, r.Name)
			if apierrors.IsNotFound(err) || isNoMatch(err) {
				return nil
			}
			if err != nil {
				return err
			}
			if owner := live.GetLabels()[LabelComponent]; owner != "" && owner != component {
				return nil
			}
			text, err := unified(r, live, nil)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			texts[r.id()] = text
			return nil
		})
	})
	var changes []Change
	for _, r := range left {
		if text, ok := texts[r.id()]; ok {
			changes = append(changes, Change{r, ActionPrune, text})
		}
	}
	return changes, err
}

// unified compares two states of one object; nil is absent. Equal ones yield "".
func unified(r Ref, before, after *unstructured.Unstructured) (string, error) {
	before, after = bare(before), bare(after)
	if before != nil && after != nil && equality.Semantic.DeepEqual(before.Object, after.Object) {
		return "", nil // most of the time, and cheaper than writing both
	}
	redact(before, after)
	old, err := document(before)
	if err != nil {
		return "", fmt.Errorf("%s: %w", r, err)
	}
	new, err := document(after)
	if err != nil {
		return "", fmt.Errorf("%s: %w", r, err)
	}
	oldName, newName := "live/"+r.String(), "catalogue/"+r.String()
	if before == nil {
		oldName = "/dev/null"
	}
	if after == nil {
		newName = "/dev/null"
	}
	return string(diff.Diff(oldName, old, newName, new)), nil
}

// Compare tells how a set of objects becomes another, without a cluster.
func Compare(before, after []*unstructured.Unstructured) ([]Change, error) {
	was := map[id]*unstructured.Unstructured{}
	for _, o := range before {
		was[refOf(o).id()] = o
	}
	var changes []Change
	add := func(o, old, new *unstructured.Unstructured, action string) error {
		text, err := unified(refOf(o), old, new)
		if err == nil && text != "" {
			changes = append(changes, Change{refOf(o), action, text})
		}
		return err
	}
	for _, o := range after {
		old, action := was[refOf(o).id()], ActionChange
		delete(was, refOf(o).id())
		if old == nil {
			action = ActionCreate
		}
		if err := add(o, old, o, action); err != nil {
			return nil, err
		}
	}
	for _, o := range before {
		if was[refOf(o).id()] == nil {
			continue
		}
		if err := add(o, o, nil, ActionPrune); err != nil {
			return nil, err
		}
	}
	return changes, nil
}

// Objects reads a YAML stream as [Manifest] writes it.
func Objects(manifest []byte) ([]*unstructured.Unstructured, error) { return parse(manifest) }

func document(o *unstructured.Unstructured) ([]byte, error) {
	if o == nil {
		return nil, nil
	}
	return yaml.Marshal(o.Object)
}

// bare copies an object without what only the server writes.
func bare(o *unstructured.Unstructured) *unstructured.Unstructured {
	if o == nil {
		return nil
	}
	o = o.DeepCopy()
	delete(o.Object, "status")
	for _, field := range []string{"managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink"} {
		unstructured.RemoveNestedField(o.Object, "metadata", field)
	}
	// kubectl's copy of the object would repeat everything, secrets included.
	annotations := o.GetAnnotations()
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
	if len(annotations) == 0 {
		unstructured.RemoveNestedField(o.Object, "metadata", "annotations")
	} else {
		o.SetAnnotations(annotations)
	}
	return o
}

// redact hides the values of Secrets and still shows which ones differ.
func redact(before, after *unstructured.Unstructured) {
	old, new := secretData(before), secretData(after)
	for k, v := range old {
		old[k] = "<redacted>"
		if n, ok := new[k]; ok && sum(n) != sum(v) {
			old[k] = "<redacted: old value>"
		}
	}
	for k := range new {
		switch v, ok := old[k]; {
		case ok && v == "<redacted: old value>":
			new[k] = "<redacted: new value>"
		default:
			new[k] = "<redacted>"
		}
	}
}

func secretData(o *unstructured.Unstructured) map[string]any {
	if o == nil || o.GetKind() != "Secret" || o.GetAPIVersion() != "v1" {
		return nil
	}
	data, _ := o.Object["data"].(map[string]any)
	return data
}

func sum(v any) [sha256.Size]byte { return sha256.Sum256(fmt.Append(nil, v)) }
