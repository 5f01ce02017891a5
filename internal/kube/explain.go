package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/orrery-dev/orrery/internal/check"

	corev1 "k8s.io/api/core/v1"
)

// explainInterval bounds how often pods and events are asked for: a person reads once a second.
const explainInterval = time.Second

type explanation struct {
	at      time.Time
	message string
	failed  bool
}

// explain adds to a verdict what its pods and events say.
func (p *readiness) explain(ctx context.Context, v verdict) verdict {
	if v.live == nil {
		return v
	}
	e, ok := p.explained[v.ref.id()]
	if !ok || time.Since(e.at) > explainInterval {
		e = explanation{at: time.Now()}
		e.message, e.failed = p.client.why(ctx, v.ref, v.live)
		p.explained[v.ref.id()] = e
	}
	if e.message != "" {
		v.message = strings.TrimSuffix(v.message, ".") + ": " + e.message
	}
	if e.failed {
		v.state = check.Failed
	}
	return v
}

// why looks for the reason why an object is not ready. Errors are swallowed: the reason
// is a help, and the next probe asks again.
func (c *Client) why(ctx context.Context, ref Ref, live *unstructured.Unstructured) (message string, failed bool) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// Quotas and admission refuse pods before there are any; others may still run from before.
	if c := StatusCondition(live, "ReplicaFailure"); c.True() && c.Message != "" {
		return podsRefused(c.Message), false
	}
	pods, err := c.podsOf(ctx, ref, live)
	if err != nil {
		return "", false
	}
	for _, pod := range pods {
		if reason, hopeless := podReason(pod); reason != "" {
			if pod.Spec.NodeName == "" {
				reason += c.nodesAgainst(ctx)
			}
			return fmt.Sprintf("pod %s: %s", pod.Name, reason), hopeless
		}
	}
	for _, pod := range pods {
		if podReady(pod) {
			continue
		}
		if event := c.lastWarning(ctx, ref.Namespace, "Pod", pod.Name); event != "" {
			return fmt.Sprintf("pod %s: %s", pod.Name, event), false
		}
		return fmt.Sprintf("pod %s: %s", pod.Name, cmp.Or(unready(pod), strings.ToLower(string(pod.Status.Phase)))), false
	}
	if event := c.lastWarning(ctx, ref.Namespace, ref.Kind, ref.Name); event != "" {
		return event, false
	}
	if ref.Kind == "Deployment" && len(pods) == 0 {
		// The Deployment's own condition comes a while after the events of its ReplicaSet.
		return c.lastWarning(ctx, ref.Namespace, "ReplicaSet", ref.Name+"-"), false
	}
	return "", false
}

// podsRefused leaves out the name of a pod that there is not, and has more room for why.
func podsRefused(message string) string {
	if _, why, ok := strings.Cut(message, " is forbidden: "); ok {
		message = why
	}
	return "its pods are refused: " + oneLine(message)
}

// podsOf yields the pods of a workload, those that are not ready first, newest first.
// It is nil without an error for what has none.
func (c *Client) podsOf(ctx context.Context, ref Ref, live *unstructured.Unstructured) ([]corev1.Pod, error) {
	var pods []corev1.Pod
	if ref.Kind == "Pod" {
		pods = typedPods([]unstructured.Unstructured{*live})
	} else if selector := podSelector(live); selector != nil {
		items, err := c.List(ctx, "v1", "Pod", ref.Namespace, selector.String())
		if err != nil {
			return nil, err
		}
		pods = typedPods(items)
	}
	slices.SortStableFunc(pods, func(a, b corev1.Pod) int {
		if x, y := podReady(a), podReady(b); x != y {
			if y {
				return -1
			}
			return 1
		}
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	})
	return pods, nil
}

// podSelector picks the pods of a workload; nil for what has none, or does not say which.
func podSelector(live *unstructured.Unstructured) labels.Selector {
	if refOf(live).rank() != rankWorkload {
		return nil
	}
	raw, ok, _ := unstructured.NestedMap(live.Object, "spec", "selector")
	if !ok {
		return nil
	}
	var selector metav1.LabelSelector
	if runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &selector) != nil {
		return nil
	}
	s, err := metav1.LabelSelectorAsSelector(&selector)
	if err != nil || s.Empty() {
		return nil
	}
	return s
}

// typedPods leaves out those that are being deleted.
func typedPods(items []unstructured.Unstructured) []corev1.Pod {
	var pods []corev1.Pod
	for _, item := range items {
		var pod corev1.Pod
		if runtime.DefaultUnstructuredConverter.FromUnstructured(item.Object, &pod) == nil && pod.DeletionTimestamp == nil {
			pods = append(pods, pod)
		}
	}
	return pods
}

func podReady(pod corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// podReason says what keeps a pod from running, as far as its status tells, and whether
// waiting cannot help.
func podReason(pod corev1.Pod) (reason string, hopeless bool) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return "not scheduled: " + oneLine(c.Message), false
		}
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		w := s.State.Waiting
		if w != nil && w.Reason != "" && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			reason := fmt.Sprintf("container %s: %s", s.Name, w.Reason)
			if w.Message != "" {
				reason += ": " + oneLine(w.Message)
			}
			if t := s.LastTerminationState.Terminated; t != nil {
				reason += ended(t)
			}
			return reason, w.Reason == "InvalidImageName"
		}
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
			return fmt.Sprintf("container %s: terminated%s", s.Name, ended(t)), false
		}
	}
	if pod.Status.Phase == corev1.PodFailed {
		return oneLine(fmt.Sprintf("failed: %s %s", pod.Status.Reason, pod.Status.Message)), false
	}
	return "", false
}

func ended(t *corev1.ContainerStateTerminated) string {
	text := fmt.Sprintf(" (last exit code %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" && t.Reason != "Completed" {
		text += ", " + t.Reason
	}
	if t.Message != "" {
		text += ", " + oneLine(t.Message)
	}
	return text + ")"
}

func unready(pod corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.ContainersReady && c.Status == corev1.ConditionFalse {
			return oneLine(c.Message)
		}
	}
	return ""
}

// lastWarning says the newest Warning event about an object.
func (c *Client) lastWarning(ctx context.Context, namespace, kind, name string) string {
	e := c.newestWarning(ctx, namespace, kind, name)
	if e.Reason == "" {
		return ""
	}
	return e.Reason + ": " + oneLine(e.Message)
}

// newestWarning finds the newest Warning event about an object; a name that ends in "-" is
// a prefix.
func (c *Client) newestWarning(ctx context.Context, namespace, kind, name string) (newest corev1.Event) {
	fields := "type=Warning,involvedObject.kind=" + kind
	if !strings.HasSuffix(name, "-") {
		fields += ",involvedObject.name=" + name
	}
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where events of cluster-wide objects are
	}
	items, err := c.list(ctx, "v1", "Event", namespace, metav1.ListOptions{FieldSelector: fields, Limit: 500})
	if err != nil {
		return newest
	}
	var at time.Time
	for _, item := range items {
		var e corev1.Event
		if runtime.DefaultUnstructuredConverter.FromUnstructured(item.Object, &e) != nil {
			continue
		}
		if strings.HasSuffix(name, "-") && !strings.HasPrefix(e.InvolvedObject.Name, name) {
			continue
		}
		if t := eventTime(e); !t.Before(at) {
			newest, at = e, t
		}
	}
	return newest
}

func eventTime(e corev1.Event) time.Time {
	times := []time.Time{e.CreationTimestamp.Time, e.LastTimestamp.Time, e.EventTime.Time}
	if e.Series != nil {
		times = append(times, e.Series.LastObservedTime.Time)
	}
	return slices.MaxFunc(times, time.Time.Compare)
}

// oneLine makes text of others fit a message.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 300 {
		s = string(r[:300]) + "…"
	}
	return s
}
