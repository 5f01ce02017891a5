package kube

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/orrery-dev/orrery/internal/check"
)

// setStatus plays the controllers and kubelets that the test cluster does not have.
func setStatus(t *testing.T, c *Client, ref Ref, status string) {
	t.Helper()
	o, err := c.Get(t.Context(), ref.APIVersion, ref.Kind, ref.Namespace, ref.Name)
	if err != nil {
		t.Fatal(err)
	}
	data, err := yaml.YAMLToJSON([]byte(strings.ReplaceAll(status, "%g", "1")))
	if err != nil {
		t.Fatal(err)
	}
	var content unstructured.Unstructured
	if err := content.UnmarshalJSON([]byte(`{"apiVersion":"v1","kind":"Status_","status":` + string(data) + `}`)); err != nil {
		t.Fatal(err)
	}
	o.Object["status"] = content.Object["status"]
	r, err := c.resource(t.Context(), ref.APIVersion, ref.Kind, ref.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.UpdateStatus(t.Context(), o, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

const podYAML = `---
apiVersion: v1
kind: Pod
metadata: {name: web-1, labels: {app: web}}
spec: {containers: [{name: web, image: example.com/web:1}]}
`

func TestReady(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	set := objects(t, ns, deploymentYAML+configMap("a", "1"))
	ready := c.Ready(ns, set)
	probe := func(state check.State, says ...string) {
		t.Helper()
		ready = c.Ready(ns, set) // a new one: an old one asks for reasons once a second at most
		r := ready.Probe(t.Context())
		if r.State != state {
			t.Fatalf("%s: %s, want %s", r.State, r.Message, state)
		}
		for _, s := range says {
			if !strings.Contains(r.Message, s) {
				t.Errorf("message %q does not say %q", r.Message, s)
			}
		}
	}
	if ready.Component != ns || ready.Timeout == 0 {
		t.Errorf("condition = %+v", ready)
	}
	probe(check.Running, "ServiceAccount "+ns+"/web: does not exist yet", "and ")
	mustApply(t, c, ns, set)
	probe(check.Running, "Deployment "+ns+"/web: ")

	event := objects(t, ns, `
apiVersion: v1
kind: Event
metadata: {name: quota}
type: Warning
reason: FailedCreate
message: "pods \"web\" is forbidden:\n exceeded quota"
involvedObject: {kind: ReplicaSet, name: web-5f, namespace: "%s"}
lastTimestamp: "2030-01-01T00:00:00Z"
`)[0]
	if err := c.Create(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	probe(check.Running, `FailedCreate: pods "web" is forbidden: exceeded quota`)

	pod := objects(t, ns, podYAML)[0]
	if err := c.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		status string
		state  check.State
		says   string
	}{
		{`{phase: Pending, conditions: [{type: PodScheduled, status: "False", reason: Unschedulable, message: "0/5 nodes are available: 5 Insufficient cpu."}]}`,
			check.Running, "pod web-1: not scheduled: 0/5 nodes are available: 5 Insufficient cpu."},
		{`{phase: Pending, containerStatuses: [{name: web, image: x, imageID: "", ready: false, restartCount: 0, state: {waiting: {reason: ImagePullBackOff, message: "Back-off pulling image"}}}]}`,
			check.Running, "pod web-1: container web: ImagePullBackOff: Back-off pulling image"},
		{`{phase: Running, containerStatuses: [{name: web, image: x, imageID: "", ready: false, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff, message: "back-off 40s"}}, lastState: {terminated: {exitCode: 137, reason: OOMKilled}}}]}`,
			check.Running, "container web: CrashLoopBackOff: back-off 40s (last exit code 137, OOMKilled)"},
		{`{phase: Running, conditions: [{type: ContainersReady, status: "False", message: "containers with unready status: [web]"}]}`,
			check.Running, "pod web-1: containers with unready status: [web]"},
		{`{phase: Pending, containerStatuses: [{name: web, image: x, imageID: "", ready: false, restartCount: 0, state: {waiting: {reason: InvalidImageName, message: "couldn't parse image"}}}]}`,
			check.Failed, "Deployment " + ns + "/web: "},
	} {
		setStatus(t, c, refOf(pod), tt.status)
		probe(tt.state, tt.says)
	}
	full := objects(t, ns, "apiVersion: v1\nkind: Node\nmetadata: {name: full-%s}\n")[0]
	full.SetNamespace("")
	if err := c.Create(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	setStatus(t, c, refOf(full), `{conditions: [{type: Ready, status: "True"}, {type: DiskPressure, status: "True", message: kubelet has disk pressure}]}`)
	setStatus(t, c, refOf(pod), `{phase: Pending, conditions: [{type: PodScheduled, status: "False", reason: Unschedulable, message: "0/1 nodes are available: 1 node(s) had untolerated taint(s)."}]}`)
	probe(check.Running, "untolerated taint(s). (", full.GetName()+" DiskPressure: kubelet has disk pressure")
	deployment := Ref{"apps/v1", "Deployment", ns, "web"}
	setStatus(t, c, refOf(pod), `{phase: Running, conditions: [{type: Ready, status: "True"}]}`)
	setStatus(t, c, deployment, `{observedGeneration: %g, replicas: 2, updatedReplicas: 2, conditions: [{type: Progressing, status: "False", reason: ProgressDeadlineExceeded, message: late}]}`)
	probe(check.Running, "Deployment "+ns+"/web: ") // may still end well
	setStatus(t, c, deployment, `{observedGeneration: %g, replicas: 2, updatedReplicas: 2, readyReplicas: 2, availableReplicas: 2, conditions: [{type: Available, status: "True"}, {type: Progressing, status: "True", reason: NewReplicaSetAvailable}]}`)
	probe(check.Succeeded, "7 objects are ready")
	// The nodes have died and are back: kubelets tell of their pods before a controller manager leads.
	setStatus(t, c, refOf(pod), `{phase: Running, conditions: [{type: Ready, status: "False"}]}`)
	probe(check.Running, "Deployment "+ns+"/web: ", "pod web-1 is not ready")
	setStatus(t, c, refOf(pod), `{phase: Failed, reason: Evicted}`) // it stays there, and counts for nothing
	probe(check.Succeeded, "7 objects are ready")
}

func TestReadyAgain(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	set := objects(t, ns, configMap("a", "1")+configMap("b", "1"))
	mustApply(t, c, ns, set[:1])
	ready := c.Ready(ns, set)
	if r := ready.Probe(t.Context()); r.State != check.Running || !strings.Contains(r.Message, "ConfigMap "+ns+"/b") {
		t.Fatalf("result = %+v", r)
	}
	// What was ready a moment ago is looked at again before the set is called ready.
	mustApply(t, c, ns, set[1:])
	if r := ready.Probe(t.Context()); r.State != check.Running || !strings.Contains(r.Message, "ConfigMap "+ns+"/a: does not exist") {
		t.Fatalf("result = %+v", r)
	}
	mustApply(t, c, ns, set)
	if r := check.Await(t.Context(), ready, nil); r.State != check.Succeeded {
		t.Fatalf("result = %+v", r)
	}
	down := intercept(t, c, refuse)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if r := check.Await(ctx, down.Ready(ns, set), nil); r.State != check.Failed || !strings.Contains(r.Message, "the API server does not answer") {
		t.Errorf("result = %+v", r)
	}
}

func TestReadyKinds(t *testing.T) {
	c := connect(t)
	ns := namespace(t, c)
	for _, tt := range []struct {
		name, manifest, status string
		state                  check.State
		says                   string
	}{
		{"job that runs", "{apiVersion: batch/v1, kind: Job, metadata: {name: x}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}",
			`{active: 1, startTime: "2026-01-01T00:00:00Z"}`, check.Running, "the Job is not complete"},
		{"job that failed", "{apiVersion: batch/v1, kind: Job, metadata: {name: z}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}",
			`{startTime: "2026-01-01T00:00:00Z", conditions: [{type: FailureTarget, status: "True", message: deadline}, {type: Failed, status: "True", message: deadline}]}`, check.Failed, "the Job failed: deadline"},
		{"aggregated api", "{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.%s.example.com}, spec: {group: \"%s.example.com\", version: v1, groupPriorityMinimum: 100, versionPriority: 100, service: {name: none, namespace: default}}}",
			"", check.Running, "not available: "},
		{"optional", "{apiVersion: nowhere.example.com/v1, kind: Comet, metadata: {name: x, annotations: {orrery.dev/optional: \"true\"}}}", "", check.Succeeded, ""},
		{"claim of an unknown class", "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x}, spec: {storageClassName: none, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}",
			"{phase: Pending}", check.Running, `there is no StorageClass "none"`},
		{"claim that waits for a consumer", `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: "%s"}, provisioner: example.com/x, volumeBindingMode: WaitForFirstConsumer}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: z}, spec: {storageClassName: "%s", accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`,
			"{phase: Pending}", check.Succeeded, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			set := objects(t, ns, tt.manifest)
			component := ns + "-" + strings.ReplaceAll(tt.name, " ", "-")
			mustApply(t, c, component, set)
			if tt.status != "" {
				setStatus(t, c, refOf(set[len(set)-1]), tt.status)
			}
			r := c.Ready(component, set).Probe(t.Context())
			if r.State != tt.state || !strings.Contains(r.Message, tt.says) {
				t.Errorf("%s: %s; want %s: %s", r.State, r.Message, tt.state, tt.says)
			}
		})
	}
}

// TestReadyCondition: an object that names a condition waits for it, and for its controller
// to have seen the last change.
func TestReadyCondition(t *testing.T) {
	declared := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus",
		"metadata": map[string]any{"name": "x", "annotations": map[string]any{AnnotationReady: "Available"}},
	}}
	for _, test := range []struct {
		name, says string
		conditions []any
		state      check.State
	}{
		{"no status", "not Available", nil, check.Running},
		{"not yet", "no pod is ready", []any{map[string]any{"type": "Available", "status": "False", "message": "no pod is ready"}}, check.Running},
		{"of an older generation", "has not seen the last change", []any{map[string]any{"type": "Available", "status": "True", "observedGeneration": int64(1)}}, check.Running},
		{"ready", "", []any{map[string]any{"type": "Available", "status": "True", "observedGeneration": int64(2)}}, check.Succeeded},
		{"says no generation", "", []any{map[string]any{"type": "Available", "status": "True"}}, check.Succeeded},
	} {
		t.Run(test.name, func(t *testing.T) {
			live := declared.DeepCopy()
			live.SetGeneration(2)
			live.Object["status"] = map[string]any{"conditions": test.conditions}
			if v := judge(declared, live, false); v.state != test.state || !strings.Contains(v.message, test.says) {
				t.Errorf("%s %q, want %s %q", v.state, v.message, test.state, test.says)
			}
		})
	}
}

// TestReadyOperators: what an operator says against an object of its kind counts, also for who knows
// of the object by an inventory and not by its manifest.
func TestReadyOperators(t *testing.T) {
	prometheus := func(annotation bool, conditions ...any) *unstructured.Unstructured {
		o := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus", "metadata": map[string]any{"name": "x"},
			"status": map[string]any{"conditions": conditions},
		}}
		if annotation {
			o.SetAnnotations(map[string]string{AnnotationReady: "Available"})
		}
		return o
	}
	is := func(kind, status, message string) map[string]any {
		return map[string]any{"type": kind, "status": status, "message": message}
	}
	policy := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": map[string]any{"name": "x"},
		"status": map[string]any{"conditions": []any{is("Valid", "False", "no such entity")}},
	}}
	deployment := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": "x"},
		"status": map[string]any{"conditions": []any{is("Available", "True", ""), is("Reconciled", "False", "of another's making")}},
	}}
	for _, test := range []struct {
		name, says string
		live       *unstructured.Unstructured
		state      check.State
	}{
		{"crash loop", "not Available: container prometheus: CrashLoopBackOff", prometheus(true, is("Available", "False", "container prometheus: CrashLoopBackOff")), check.Running},
		{"crash loop, without an annotation", "not Available: CrashLoopBackOff", prometheus(false, is("Available", "False", "CrashLoopBackOff")), check.Running},
		{"degraded", "not Available", prometheus(false, is("Available", "Degraded", "one of two")), check.Running},
		{"cannot be made", "not Reconciled: no such secret", prometheus(true, is("Available", "True", ""), is("Reconciled", "False", "no such secret")), check.Running},
		{"nothing is said yet", "not Available", prometheus(true), check.Running},
		{"nothing is ever said", "", prometheus(false), check.Succeeded},
		{"all well", "", prometheus(true, is("Available", "True", ""), is("Reconciled", "True", "")), check.Succeeded},
		{"a policy that is not enforced", "not Valid: no such entity", policy, check.Running},
		{"Kubernetes' own kinds are judged by kind", "", deployment, check.Succeeded},
	} {
		t.Run(test.name, func(t *testing.T) {
			bare := &unstructured.Unstructured{}
			bare.SetGroupVersionKind(test.live.GroupVersionKind())
			bare.SetName("x")
			if v := judge(bare, test.live, false); v.state != test.state || !strings.Contains(v.message, test.says) {
				t.Errorf("%s %q, want %s %q", v.state, v.message, test.state, test.says)
			}
		})
	}
}

// TestWhyNoPods: admission refuses the pods of a Deployment, not the Deployment.
func TestWhyNoPods(t *testing.T) {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "x", "namespace": "platform"},
		"status": map[string]any{"conditions": []any{map[string]any{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
			"message": "pods \"x-1\" is forbidden: ValidatingAdmissionPolicy 'orrery-images' denied request: container a: image \"nginx\" has no digest"}}},
	}}
	if why, failed := (&Client{}).why(t.Context(), refOf(o), o); failed || !strings.HasPrefix(why, "its pods are refused: ") || !strings.Contains(why, `image "nginx" has no digest`) {
		t.Errorf("%q, failed %t", why, failed)
	}
}

// TestReadyDeferred: what was left out for want of its kind is asked for once the kind is there.
func TestReadyDeferred(t *testing.T) {
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor",
		"metadata": map[string]any{"name": "x", "annotations": map[string]any{AnnotationOptional: "true"}},
	}}
	if v := judge(o, nil, true); v.state != check.Succeeded {
		t.Errorf("its kind is unknown: %s %s", v.state, v.message)
	}
	if v := judge(o, nil, false); v.state != check.Failed || !errors.Is(v.err, ErrDeferred) {
		t.Errorf("its kind is known: %s %v", v.state, v.err)
	}
}

// TestOvertaken: the status of a workload is older than what its pods say.
func TestOvertaken(t *testing.T) {
	workload := func(kind string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apps/v1", "kind": kind, "metadata": map[string]any{"name": "x", "namespace": "n"},
			"spec": map[string]any{"selector": map[string]any{"matchLabels": map[string]any{"app": "x"}}},
		}}
	}
	pod := func(namespace, app string, phase corev1.PodPhase, ready corev1.ConditionStatus) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x-0", Namespace: namespace, Labels: map[string]string{"app": app}},
			Status: corev1.PodStatus{Phase: phase, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}}
	}
	for _, test := range []struct {
		name, kind string
		pod        corev1.Pod
		overtaken  bool
	}{
		{"not ready", "StatefulSet", pod("n", "x", corev1.PodRunning, corev1.ConditionFalse), true},
		{"not known", "DaemonSet", pod("n", "x", corev1.PodRunning, corev1.ConditionUnknown), true},
		{"ready", "Deployment", pod("n", "x", corev1.PodRunning, corev1.ConditionTrue), false},
		{"evicted", "Deployment", pod("n", "x", corev1.PodFailed, corev1.ConditionFalse), false},
		{"finished", "Deployment", pod("n", "x", corev1.PodSucceeded, corev1.ConditionFalse), false},
		{"another's", "Deployment", pod("n", "y", corev1.PodRunning, corev1.ConditionFalse), false},
		{"of another namespace", "Deployment", pod("m", "x", corev1.PodRunning, corev1.ConditionFalse), false},
		{"no workload", "ControllerRevision", pod("n", "x", corev1.PodRunning, corev1.ConditionFalse), false},
	} {
		if says := overtaken(workload(test.kind), []corev1.Pod{test.pod}); (says != "") != test.overtaken {
			t.Errorf("%s: %q", test.name, says)
		}
	}
}
