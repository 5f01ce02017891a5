package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"

	"github.com/orrery-dev/orrery/internal/check"
)

// ErrDeferred is wrapped by the failure of [Client.Ready] when optional objects were left out
// because the cluster did not know their kind, and it does now: apply the component again.
var ErrDeferred = errors.New("was deferred, and its kind exists now: deploy the component again")

// readyInterval is between probes: fast enough to feel instant, and light, since a
// probe asks only for kinds that were not ready before.
const readyInterval = 200 * time.Millisecond

// Ready holds when every object of the set is, as kstatus sees it: rollouts complete,
// Jobs done, aggregated APIs available, CRDs established. While it does not hold the
// message says which object is in the way and why: image, scheduling, crash, event.
// It fails only for what waiting cannot mend. The timeout is 5 minutes; callers may
// change it. Optional objects count only once the cluster knows their kind: a set whose
// deferred objects can be made now fails with [ErrDeferred] until it is applied again.
func (c *Client) Ready(component string, objs []*unstructured.Unstructured) check.Condition {
	objs = slices.Clone(objs)
	sortObjects(objs) // so that what others wait for is named first
	p := &readiness{client: c, component: component, pending: objs, all: objs, explained: map[id]explanation{}}
	return check.Condition{
		Component: component, Name: "ready", Timeout: 5 * time.Minute, Interval: readyInterval,
		Probe: p.probe,
	}
}

type readiness struct {
	client    *Client
	component string
	all       []*unstructured.Unstructured

	mu        sync.Mutex
	pending   []*unstructured.Unstructured
	explained map[id]explanation
}

// verdict on one object.
type verdict struct {
	ref     Ref
	state   check.State // Running, Succeeded or Failed
	message string
	err     error // why it failed, when somebody may want to know
	live    *unstructured.Unstructured
}

func (p *readiness) probe(ctx context.Context) check.Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	whole := len(p.pending) == len(p.all)
	waiting, result := p.look(ctx, p.pending)
	if result != nil {
		return *result
	}
	p.pending = waiting
	if len(waiting) > 0 {
		return check.Wait("starting")
	}
	if !whole {
		// What was ready while others were not must still be so.
		if p.pending, result = p.look(ctx, p.all); result != nil {
			return *result
		}
	}
	p.pending = p.all
	return check.OK("%d objects are ready", len(p.all))
}

// look judges objects and returns those that are not ready, and a result unless all are.
func (p *readiness) look(ctx context.Context, objs []*unstructured.Unstructured) ([]*unstructured.Unstructured, *check.Result) {
	live, unserved, err := p.read(ctx, objs)
	verdicts := make([]verdict, len(objs))
	var rolledOut []*unstructured.Unstructured // as they say
	for i, o := range objs {
		verdicts[i] = judge(o, live[refOf(o).id()], unserved[o.GroupVersionKind()])
		if v := verdicts[i]; v.state == check.Succeeded && v.live != nil {
			rolledOut = append(rolledOut, v.live)
		}
	}
	var pods []corev1.Pod
	if err == nil {
		pods, err = p.client.podsBehind(ctx, rolledOut)
	}
	if err != nil {
		r := check.Wait("the API server does not answer: %v", ignoreCanceled(ctx, err))
		r.Err = err
		return objs, &r
	}
	var waiting []*unstructured.Unstructured
	var open []verdict
	for i, o := range objs {
		v := verdicts[i]
		switch {
		case v.state == check.Running && v.live != nil:
			v = p.storage(ctx, v)
		case v.state == check.Succeeded && v.live != nil:
			if v.message = overtaken(v.live, pods); v.message != "" {
				v.state = check.Running
			}
		}
		if v.state == check.Succeeded {
			continue
		}
		waiting, open = append(waiting, o), append(open, v)
	}
	if len(open) == 0 {
		return nil, nil
	}
	// Two reasons are enough for a line.
	var reasons []string
	for i, v := range open {
		if i < 2 || v.state == check.Failed {
			v = p.explain(ctx, v)
		}
		if v.state == check.Failed {
			err := v.err
			if err == nil {
				err = errors.New(v.message)
			}
			r := check.Fail(fmt.Errorf("%s: %w", v.ref, err))
			return waiting, &r
		}
		if i < 2 {
			reasons = append(reasons, fmt.Sprintf("%s: %s", v.ref, v.message))
		}
	}
	if more := len(open) - len(reasons); more > 0 {
		reasons = append(reasons, fmt.Sprintf("and %d more", more))
	}
	r := check.Wait("%s", strings.Join(reasons, "; "))
	return waiting, &r
}

// read fetches the live objects with one list per kind. A cluster-wide list by label is
// cheaper than a read per object for all but the smallest sets. It also says which kinds
// the cluster does not know.
func (p *readiness) read(ctx context.Context, objs []*unstructured.Unstructured) (map[id]*unstructured.Unstructured, map[schema.GroupVersionKind]bool, error) {
	var mu sync.Mutex
	live := map[id]*unstructured.Unstructured{}
	unserved := map[schema.GroupVersionKind]bool{}
	byKind := map[schema.GroupVersionKind][]*unstructured.Unstructured{}
	var kinds []schema.GroupVersionKind
	for _, o := range objs {
		gvk := o.GroupVersionKind()
		if byKind[gvk] == nil {
			kinds = append(kinds, gvk)
		}
		byKind[gvk] = append(byKind[gvk], o)
	}
	err := each(ctx, kinds, func(ctx context.Context, _ int, gvk schema.GroupVersionKind) error {
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		apiVersion := gvk.GroupVersion().String()
		if len(byKind[gvk]) == 1 {
			o := byKind[gvk][0]
			got, err := p.client.Get(ctx, apiVersion, gvk.Kind, o.GetNamespace(), o.GetName())
			mu.Lock()
			defer mu.Unlock()
			switch {
			case isNoMatch(err):
				unserved[gvk] = true
			case err == nil:
				live[refOf(o).id()] = got
			case !apierrors.IsNotFound(err):
				return err
			}
			return nil
		}
		items, err := p.client.list(ctx, apiVersion, gvk.Kind, "", metav1.ListOptions{LabelSelector: LabelComponent + "=" + p.component})
		mu.Lock()
		defer mu.Unlock()
		if isNoMatch(err) {
			unserved[gvk] = true
			return nil
		}
		for _, item := range items {
			live[refOf(&item).id()] = &item
		}
		return err
	})
	// The server may know better than the manifest whether a kind has namespaces.
	for _, o := range objs {
		r := refOf(o)
		if r.Namespace != "" && live[r.id()] == nil {
			bare := r
			bare.Namespace = ""
			if found := live[bare.id()]; found != nil {
				live[r.id()] = found
			}
		}
	}
	return live, unserved, err
}

// judge compares an object with what it should be, without asking anybody.
func judge(o, live *unstructured.Unstructured, unserved bool) verdict {
	v := verdict{ref: refOf(o), live: live, state: check.Running}
	if live == nil {
		v.message = "does not exist yet"
		switch optional := o.GetAnnotations()[AnnotationOptional] == "true"; {
		case optional && unserved:
			v.state = check.Succeeded
		case optional:
			v.state, v.err, v.message = check.Failed, ErrDeferred, ErrDeferred.Error()
		}
		return v
	}
	if live.GetDeletionTimestamp() != nil {
		v.message = "is being deleted"
		return v
	}
	// Who names objects by an inventory does not have what their manifests say.
	if wanted := cmp.Or(o.GetAnnotations()[AnnotationReady], live.GetAnnotations()[AnnotationReady]); wanted != "" {
		switch c := StatusCondition(live, wanted); {
		case !c.True():
			v.message = fmt.Sprintf("not %s: %s", wanted, c.says())
			return v
		case c.Observed < live.GetGeneration():
			v.message = "its controller has not seen the last change yet"
			return v
		}
	}
	if message := operators(live); message != "" {
		v.message = message
		return v
	}
	switch o.GroupVersionKind().GroupKind() {
	case schema.GroupKind{Group: "batch", Kind: "Job"}:
		// kstatus is content with a Job that has started.
		if StatusCondition(live, "Complete").True() {
			v.state = check.Succeeded
		} else if c := StatusCondition(live, "Failed"); c.True() {
			v.state, v.message = check.Failed, "the Job failed: "+c.Message
		} else {
			v.message = "the Job is not complete"
		}
		return v
	case schema.GroupKind{Group: certManager, Kind: "Certificate"}:
		if o.GetAnnotations()[AnnotationOptional] == "true" { // issued before: nothing waits for cert-manager
			v.state = check.Succeeded
			return v
		}
	case schema.GroupKind{Group: "apiregistration.k8s.io", Kind: "APIService"}:
		if c := StatusCondition(live, "Available"); c.True() {
			v.state = check.Succeeded
		} else {
			v.message = "not available: " + c.says()
		}
		return v
	}
	result, err := status.Compute(live)
	switch {
	case err != nil:
		v.message = "its status cannot be read: " + err.Error()
	case result.Status == status.CurrentStatus:
		v.state = check.Succeeded
	default:
		// Also what kstatus calls failed: a rollout that passed its progress deadline
		// still ends well once its image can be pulled. Our own deadline decides.
		v.message = result.Message
	}
	return v
}

// operatorsSay are conditions with which operators tell of their own kinds, and of which kstatus
// knows nothing: those of Prometheus' operator, and what Cilium says of a policy.
var operatorsSay = []string{"Available", "Reconciled", "Valid"}

// operators is what an operator says against an object of one of its kinds; "" when nothing. A
// condition that is not there says nothing.
func operators(live *unstructured.Unstructured) string {
	group := live.GroupVersionKind().Group
	if !strings.Contains(group, ".") || strings.HasSuffix(group, ".k8s.io") { // Kubernetes' own, which are judged by kind
		return ""
	}
	for _, kind := range operatorsSay {
		if c := StatusCondition(live, kind); c.Status != "" && !c.True() {
			return strings.TrimSuffix(fmt.Sprintf("not %s: %s", kind, c.says()), ": ")
		}
	}
	return ""
}

// podsBehind are those of all workloads among live objects, with a list per namespace.
func (c *Client) podsBehind(ctx context.Context, live []*unstructured.Unstructured) ([]corev1.Pod, error) {
	var namespaces []string
	for _, o := range live {
		if ns := o.GetNamespace(); podSelector(o) != nil && !slices.Contains(namespaces, ns) {
			namespaces = append(namespaces, ns)
		}
	}
	if len(namespaces) > 2 {
		namespaces = []string{""} // of all
	}
	var all []corev1.Pod
	for _, ns := range namespaces {
		items, err := c.List(ctx, "v1", "Pod", ns, "")
		if err != nil {
			return nil, err
		}
		all = append(all, typedPods(items)...)
	}
	return all, nil
}

// overtaken says which of the pods of a workload contradicts the workload's status; "" when none
// does. After all nodes have died, kubelets say what has become of the pods before a controller
// manager leads that would carry it into the status: until then that is the one of before.
func overtaken(live *unstructured.Unstructured, pods []corev1.Pod) string {
	selector := podSelector(live)
	if selector == nil {
		return ""
	}
	for _, pod := range pods {
		if pod.Namespace == live.GetNamespace() && selector.Matches(labels.Set(pod.Labels)) && !podReady(pod) && pod.Status.Phase != corev1.PodFailed {
			return fmt.Sprintf("its controller has not seen yet that pod %s is not ready", pod.Name)
		}
	}
	return ""
}

// storage lets a claim count as ready that nobody has asked for yet, when its class
// waits for that (volumeBindingMode WaitForFirstConsumer).
func (p *readiness) storage(ctx context.Context, v verdict) verdict {
	if v.ref.Kind != "PersistentVolumeClaim" {
		return v
	}
	if phase, _, _ := unstructured.NestedString(v.live.Object, "status", "phase"); phase != "Pending" {
		return v
	}
	class, _, _ := unstructured.NestedString(v.live.Object, "spec", "storageClassName")
	sc, err := p.client.Get(ctx, "storage.k8s.io/v1", "StorageClass", "", class)
	if err != nil {
		if apierrors.IsNotFound(err) {
			v.message = fmt.Sprintf("there is no StorageClass %q", class)
		}
		return v
	}
	if mode, _, _ := unstructured.NestedString(sc.Object, "volumeBindingMode"); mode != "WaitForFirstConsumer" {
		return v
	}
	// A scheduled consumer leaves its mark on the claim; from then on it must be bound.
	if node := v.live.GetAnnotations()["volume.kubernetes.io/selected-node"]; node == "" {
		v.state = check.Succeeded
	}
	return v
}
