package kubetest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// readyAnnotation names the condition that makes an object of ours ready; the fake's
// controllers set it.
const readyAnnotation = "orrery.dev/ready"

// Hold keeps objects from becoming ready, those that exist and those to come. reason is as a
// container says it, "ImagePullBackOff: no such image", or what the object's condition says; for pods that
// are refused it is "FailedCreate: " and the refusal.
// An empty Name or Namespace means all.
func (s *Server) Hold(of Ref, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds[of] = reason
	s.controlAll(of.Kind)
}

// Release takes back a [Server.Hold] of the same reference.
func (s *Server) Release(of Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.holds, of)
	s.controlAll(of.Kind)
}

func (s *Server) controlAll(kind string) {
	for _, k := range slices.SortedFunc(maps.Keys(s.objects), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
	}) {
		if o := s.objects[k]; o != nil && k.kind == kind {
			s.control(o)
		}
	}
}

// held is why an object is not to become ready.
func (s *Server) held(o *unstructured.Unstructured) (reason string, held bool) {
	for of, why := range s.holds {
		if of.Kind == o.GetKind() && (of.Namespace == "" || of.Namespace == o.GetNamespace()) && (of.Name == "" || of.Name == o.GetName()) {
			return why, true
		}
	}
	return "", false
}

func condition(kind string, holds bool, reason, message string) map[string]any {
	status := "False"
	if holds {
		status = "True"
	}
	return map[string]any{"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"}
}

// setStatus stores a status unless it is there already.
func (s *Server) setStatus(o *unstructured.Unstructured, status map[string]any) {
	if apiequality.Semantic.DeepEqual(o.Object["status"], any(status)) {
		return
	}
	o = o.DeepCopy() // the one before may be the answer to somebody
	o.Object["status"] = runtime.DeepCopyJSONValue(status)
	s.version++
	o.SetResourceVersion(strconv.FormatInt(s.version, 10))
	s.objects[keyOf(o)] = o
}

// control is all controllers: they see to one object that was written.
func (s *Server) control(o *unstructured.Unstructured) {
	if o.GetDeletionTimestamp() != nil {
		return
	}
	why, held := s.held(o)
	switch o.GroupVersionKind().GroupKind() {
	case schema.GroupKind{Kind: "Namespace"}:
		s.setStatus(o, map[string]any{"phase": "Active"})
		for _, inside := range []*unstructured.Unstructured{
			object("v1", "ServiceAccount", o.GetName(), "default", nil),
			object("v1", "ConfigMap", o.GetName(), "kube-root-ca.crt", map[string]any{"data": map[string]any{"ca.crt": string(s.ca)}}),
		} {
			if s.objects[keyOf(inside)] == nil {
				s.put(inside)
			}
		}
	case schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}:
		s.define(o, held, why)
	case schema.GroupKind{Group: "apiregistration.k8s.io", Kind: "APIService"}:
		s.setStatus(o, map[string]any{"conditions": []any{condition("Available", !held, "Test", why)}})
	case schema.GroupKind{Group: "apps", Kind: "Deployment"}, schema.GroupKind{Group: "apps", Kind: "StatefulSet"},
		schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}, schema.GroupKind{Group: "apps", Kind: "DaemonSet"},
		schema.GroupKind{Group: "batch", Kind: "Job"}:
		s.workload(o, held, why)
	case schema.GroupKind{Kind: "Pod"}:
		s.pod(o, held, why)
	case schema.GroupKind{Kind: "PersistentVolumeClaim"}:
		s.claim(o, held)
	case schema.GroupKind{Group: "policy", Kind: "PodDisruptionBudget"}:
		s.setStatus(o, map[string]any{"observedGeneration": o.GetGeneration(), "currentHealthy": int64(1), "desiredHealthy": int64(0),
			"disruptionsAllowed": int64(1), "expectedPods": int64(1)})
	default:
		s.other(o, held, why)
	}
}

// other objects get the condition that makes them ready, if they name one.
func (s *Server) other(o *unstructured.Unstructured, held bool, why string) {
	wanted := o.GetAnnotations()[readyAnnotation]
	ours := text(o, "status", "by") == "kubetest"
	switch {
	case held:
		s.setStatus(o, map[string]any{"by": "kubetest", "conditions": []any{condition(cmp.Or(wanted, "Ready"), false, "Held", why)}})
	case wanted != "":
		c := condition(wanted, true, "Test", "")
		c["observedGeneration"] = o.GetGeneration()
		s.setStatus(o, map[string]any{"by": "kubetest", "conditions": []any{c}})
	case ours:
		s.setStatus(o, map[string]any{"by": "kubetest"})
	}
}

func (s *Server) define(crd *unstructured.Unstructured, held bool, why string) {
	if held {
		s.setStatus(crd, map[string]any{"conditions": []any{condition("NamesAccepted", true, "Test", ""),
			condition("Established", false, "Held", why)}})
		return
	}
	served := map[schema.GroupVersionKind]bool{}
	for _, k := range custom(crd) {
		s.kinds[k.gvk], served[k.gvk] = k, true
	}
	for gvk, k := range s.kinds { // versions that are served no more
		if gvk.Group == text(crd, "spec", "group") && k.resource == text(crd, "spec", "names", "plural") && !served[gvk] {
			delete(s.kinds, gvk)
		}
	}
	names, _, _ := unstructured.NestedMap(crd.Object, "spec", "names")
	s.setStatus(crd, map[string]any{
		"acceptedNames": names,
		"conditions":    []any{condition("NamesAccepted", true, "NoConflicts", ""), condition("Established", true, "InitialNamesAccepted", "")},
	})
}

func (s *Server) claim(o *unstructured.Unstructured, held bool) {
	class := s.objects[key{"storage.k8s.io", "StorageClass", "", text(o, "spec", "storageClassName")}]
	waits := class != nil && text(class, "volumeBindingMode") == "WaitForFirstConsumer" && !s.claimed(o)
	if held || waits {
		s.setStatus(o, map[string]any{"phase": "Pending"})
		return
	}
	capacity, _, _ := unstructured.NestedMap(o.Object, "spec", "resources", "requests")
	s.setStatus(o, map[string]any{"phase": "Bound", "capacity": capacity})
}

// claimed says whether a pod uses the claim.
func (s *Server) claimed(claim *unstructured.Unstructured) bool {
	for _, pod := range s.all(schema.GroupKind{Kind: "Pod"}) {
		volumes, _, _ := unstructured.NestedSlice(pod.Object, "spec", "volumes")
		for _, v := range volumes {
			v, _ := v.(map[string]any)
			name, _, _ := unstructured.NestedString(v, "persistentVolumeClaim", "claimName")
			if name == claim.GetName() && pod.GetNamespace() == claim.GetNamespace() {
				return true
			}
		}
	}
	return false
}

// workload has its pods, and a status that says so.
func (s *Server) workload(o *unstructured.Unstructured, held bool, why string) {
	n := int64(1)
	switch o.GetKind() {
	case "DaemonSet":
		n = int64(len(s.nodes))
	case "Job":
	default:
		if replicas, ok, _ := unstructured.NestedInt64(o.Object, "spec", "replicas"); ok {
			n = replicas
		}
	}
	ready := n
	if held {
		ready = 0
	}
	s.pods(o, int(n))
	status := map[string]any{"observedGeneration": o.GetGeneration()}
	set := func(v int64, names ...string) {
		for _, name := range names {
			status[name] = v
		}
	}
	switch o.GetKind() {
	case "Deployment":
		set(n, "replicas", "updatedReplicas")
		set(ready, "readyReplicas", "availableReplicas")
		status["conditions"] = []any{
			condition("Available", !held, "Test", why),
			condition("Progressing", true, map[bool]string{true: "ReplicaSetUpdated", false: "NewReplicaSetAvailable"}[held], ""),
		}
		if refused, ok := strings.CutPrefix(why, "FailedCreate: "); ok {
			status["conditions"] = append(status["conditions"].([]any), condition("ReplicaFailure", true, "FailedCreate", refused))
		}
	case "ReplicaSet":
		set(n, "replicas", "fullyLabeledReplicas")
		set(ready, "readyReplicas", "availableReplicas")
	case "StatefulSet":
		set(n, "replicas", "updatedReplicas", "currentReplicas")
		set(ready, "readyReplicas", "availableReplicas")
		status["currentRevision"], status["updateRevision"] = o.GetName()+"-1", o.GetName()+"-1"
	case "DaemonSet":
		set(n, "desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled")
		set(ready, "numberReady", "numberAvailable")
		set(0, "numberMisscheduled")
	case "Job":
		status = map[string]any{"startTime": "2026-01-01T00:00:00Z", "active": int64(1)}
		if !held {
			status = map[string]any{"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:01Z", "succeeded": int64(1),
				"conditions": []any{condition("Complete", true, "Test", "")}}
		} else if failed, ok := strings.CutPrefix(why, "Failed: "); ok {
			status = map[string]any{"failed": int64(1), "conditions": []any{condition("Failed", true, "BackoffLimitExceeded", failed)}}
		}
	}
	s.setStatus(o, status)
}

// pods makes and removes the pods of a workload.
func (s *Server) pods(o *unstructured.Unstructured, n int) {
	template, _, _ := unstructured.NestedMap(o.Object, "spec", "template")
	wanted := map[string]bool{}
	for i := range n {
		pod := object("v1", "Pod", o.GetNamespace(), fmt.Sprintf("%s-%d", o.GetName(), i), map[string]any{"spec": template["spec"]})
		pod = pod.DeepCopy()
		labels, _, _ := unstructured.NestedStringMap(template, "metadata", "labels")
		annotations, _, _ := unstructured.NestedStringMap(template, "metadata", "annotations")
		pod.SetLabels(labels)
		pod.SetAnnotations(annotations)
		controller := true
		pod.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: o.GetAPIVersion(), Kind: o.GetKind(), Name: o.GetName(),
			UID: o.GetUID(), Controller: &controller}})
		if len(s.nodes) > 0 && pod.Object["spec"] != nil {
			_ = unstructured.SetNestedField(pod.Object, s.nodes[i%len(s.nodes)].Name, "spec", "nodeName")
		}
		wanted[pod.GetName()] = true
		live := s.objects[keyOf(pod)]
		if live != nil && apiequality.Semantic.DeepEqual(desired(live), desired(pod)) && maps.Equal(live.GetLabels(), labels) {
			s.control(live)
			continue
		}
		s.put(pod)
	}
	for _, pod := range s.ownedBy(o) {
		if pod.GetKind() == "Pod" && !wanted[pod.GetName()] {
			s.terminate(pod)
		}
	}
}

// pod runs, unless it or the workload that it is of is held.
func (s *Server) pod(o *unstructured.Unstructured, held bool, why string) {
	for _, owner := range o.GetOwnerReferences() {
		gv, _ := schema.ParseGroupVersion(owner.APIVersion)
		if w := s.objects[key{gv.Group, owner.Kind, o.GetNamespace(), owner.Name}]; w != nil && !held {
			why, held = s.held(w)
		}
	}
	job := slices.ContainsFunc(o.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.Kind == "Job" })
	reason, message, _ := strings.Cut(why, ": ")
	containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "containers")
	before, _, _ := unstructured.NestedSlice(o.Object, "status", "containerStatuses")
	imageIDs := map[any]any{} // by container; what a test says of them stays
	for _, c := range before {
		if c, _ := c.(map[string]any); c != nil {
			imageIDs[c["name"]] = c["imageID"]
		}
	}
	var statuses []any
	for _, c := range containers {
		c, _ := c.(map[string]any)
		state := map[string]any{"running": map[string]any{"startedAt": "2026-01-01T00:00:00Z"}}
		switch {
		case held:
			state = map[string]any{"waiting": map[string]any{"reason": reason, "message": message}}
		case job:
			state = map[string]any{"terminated": map[string]any{"reason": "Completed", "exitCode": int64(0)}}
		}
		statuses = append(statuses, map[string]any{"name": c["name"], "image": c["image"], "ready": !held && !job, "restartCount": int64(0),
			"state": state, "imageID": imageIDs[c["name"]]})
	}
	phase := "Running"
	switch {
	case held:
		phase = "Pending"
	case job:
		phase = "Succeeded"
	}
	o, node := s.scheduled(o)
	ip := address("10.244", string(o.GetUID()))
	if onHost, _, _ := unstructured.NestedBool(o.Object, "spec", "hostNetwork"); onHost {
		ip = node.Address
	}
	s.setStatus(o, map[string]any{
		"phase": phase, "podIP": ip, "podIPs": []any{map[string]any{"ip": ip}},
		"startTime": "2026-01-01T00:00:00Z", "containerStatuses": statuses,
		"conditions": []any{
			condition("PodScheduled", true, "Test", ""),
			condition("Ready", !held && !job, "Test", why),
			condition("ContainersReady", !held && !job, "Test", why),
		},
	})
}

// scheduled puts a pod on a node unless it is on one: the one that its selector names, else
// that with the fewest pods.
func (s *Server) scheduled(o *unstructured.Unstructured) (*unstructured.Unstructured, Node) {
	on := map[string]int{}
	for _, pod := range s.all(schema.GroupKind{Kind: "Pod"}) {
		on[text(pod, "spec", "nodeName")]++
	}
	wanted := cmp.Or(text(o, "spec", "nodeName"), text(o, "spec", "nodeSelector", "kubernetes.io/hostname"))
	var chosen Node
	for _, n := range s.nodes {
		if wanted == n.Name || wanted == "" && (chosen.Name == "" || on[n.Name] < on[chosen.Name]) {
			chosen = n
		}
	}
	if chosen.Name != "" && text(o, "spec", "nodeName") == "" && o.Object["spec"] != nil {
		o = o.DeepCopy()
		_ = unstructured.SetNestedField(o.Object, chosen.Name, "spec", "nodeName")
		s.objects[keyOf(o)] = o // setStatus follows
	}
	return o, chosen
}

// Node is one of the cluster.
type Node struct {
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"`
	Address string            `json:"address,omitempty"` // InternalIP
	PodCIDR string            `json:"podCIDR,omitempty"`
	Server  bool              `json:"server,omitempty"` // runs an API server
	Ready   bool              `json:"ready"`
}

// SetNodes makes these the nodes of the cluster. Those of them that run an API server stand
// behind the Service kubernetes.
func (s *Server) SetNodes(nodes []Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.all(schema.GroupKind{Kind: "Node"}) {
		if !slices.ContainsFunc(nodes, func(n Node) bool { return n.Name == o.GetName() }) {
			s.terminate(o)
		}
	}
	s.nodes = slices.Clone(nodes)
	var behind []any
	for _, n := range nodes {
		o := object("v1", "Node", "", n.Name, map[string]any{
			"spec": map[string]any{"podCIDR": n.PodCIDR},
			"status": map[string]any{
				"addresses":   []any{map[string]any{"type": "InternalIP", "address": n.Address}, map[string]any{"type": "Hostname", "address": n.Name}},
				"allocatable": map[string]any{"cpu": "4", "memory": "8Gi", "pods": "110"},
				"capacity":    map[string]any{"cpu": "4", "memory": "8Gi", "pods": "110"},
				"nodeInfo":    map[string]any{"kubeletVersion": Version, "architecture": "amd64", "operatingSystem": "linux"},
				"conditions":  []any{condition("Ready", n.Ready, "Test", "")},
			},
		})
		labels := maps.Clone(n.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		labels["kubernetes.io/hostname"] = n.Name
		if n.Server {
			labels["node-role.kubernetes.io/control-plane"] = ""
			if n.Ready {
				behind = append(behind, map[string]any{"addresses": []any{n.Address}, "conditions": map[string]any{"ready": true}})
			}
		}
		o.SetLabels(labels)
		s.put(o)
	}
	slice := object("discovery.k8s.io/v1", "EndpointSlice", "default", "kubernetes", map[string]any{
		"addressType": "IPv4", "endpoints": behind, "ports": []any{map[string]any{"name": "https", "port": int64(6443)}},
	})
	slice.SetLabels(map[string]string{"kubernetes.io/service-name": "kubernetes"})
	s.put(slice)
	s.controlAll("DaemonSet")
}

// Event records a Warning about an object, as controllers and kubelets do.
func (s *Server) Event(of Ref, reason, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := metav1.Now().UTC().Format("2006-01-02T15:04:05Z")
	s.put(object("v1", "Event", cmp.Or(of.Namespace, "default"), fmt.Sprintf("%s.%d", of.Name, s.version), map[string]any{
		"type": "Warning", "reason": reason, "message": message, "lastTimestamp": at, "count": int64(1),
		"involvedObject": map[string]any{"kind": of.Kind, "namespace": of.Namespace, "name": of.Name},
	}))
}

// SetLog is what the log of a container is from now on; without it, it is one line.
func (s *Server) SetLog(namespace, pod, container, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[namespace+"/"+pod+"/"+container] = text
}

// podLog is an answer that is text.
type podLog string

func (s *Server) log(q request) (podLog, error) {
	pod := s.objects[q.key()]
	if q.kind.gvk.Kind != "Pod" || pod == nil {
		return "", q.notFound()
	}
	container := q.query.Get("container")
	if container == "" {
		containers, _, _ := unstructured.NestedSlice(pod.Object, "spec", "containers")
		if len(containers) > 0 {
			first, _ := containers[0].(map[string]any)
			container, _ = first["name"].(string)
		}
	}
	text, ok := s.logs[q.namespace+"/"+q.name+"/"+container]
	if !ok {
		text = "log of " + q.name + "/" + container + "\n"
	}
	lines := strings.SplitAfter(text, "\n")
	if n, err := strconv.Atoi(q.query.Get("tailLines")); err == nil {
		if lines[len(lines)-1] == "" {
			lines = lines[:len(lines)-1]
		}
		lines = lines[max(0, len(lines)-n):]
	}
	return podLog(strings.Join(lines, "")), nil
}
