package kubetest

import (
	"fmt"
	"hash/fnv"
	"strconv"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// Put stores an object as a controller of the cluster would: as it is, its status too, under
// no field manager. What is not given of uid, resourceVersion and so on is made.
func (s *Server) Put(o *unstructured.Unstructured) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(o.DeepCopy())
}

// Get is an object as the cluster holds it, nil when there is none.
func (s *Server) Get(apiVersion, kind, namespace, name string) *unstructured.Unstructured {
	s.mu.Lock()
	defer s.mu.Unlock()
	gvk := schema.FromAPIVersionAndKind(apiVersion, kind)
	return s.objects[key{gvk.Group, gvk.Kind, namespace, name}].DeepCopy()
}

// List is all objects of a kind in a namespace, or in all when it is empty.
func (s *Server) List(apiVersion, kind, namespace string) (found []*unstructured.Unstructured) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.all(schema.FromAPIVersionAndKind(apiVersion, kind).GroupKind()) {
		if namespace == "" || o.GetNamespace() == namespace {
			found = append(found, o.DeepCopy())
		}
	}
	return found
}

func object(apiVersion, kind, namespace, name string, more map[string]any) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	for k, v := range more {
		o.Object[k] = v
	}
	o.SetAPIVersion(apiVersion)
	o.SetKind(kind)
	o.SetNamespace(namespace)
	o.SetName(name)
	return o
}

func keyOf(o *unstructured.Unstructured) key {
	gvk := o.GroupVersionKind()
	return key{gvk.Group, gvk.Kind, o.GetNamespace(), o.GetName()}
}

func (s *Server) put(o *unstructured.Unstructured) {
	s.complete(o, s.objects[keyOf(o)])
	s.save(o)
}

// complete gives an object what only the server writes. live is what it takes the place of.
func (s *Server) complete(o, live *unstructured.Unstructured) {
	generation := int64(1)
	if live != nil {
		o.SetUID(live.GetUID())
		o.SetCreationTimestamp(live.GetCreationTimestamp())
		o.SetDeletionTimestamp(live.GetDeletionTimestamp())
		generation = live.GetGeneration()
		if !apiequality.Semantic.DeepEqual(desired(live), desired(o)) {
			generation++
		}
	} else {
		o.SetUID(uuid.NewUUID())
		if at := o.GetCreationTimestamp(); at.IsZero() { // else a test says so
			o.SetCreationTimestamp(metav1.Now().Rfc3339Copy())
		}
	}
	o.SetGeneration(generation)
	admit(o)
}

// desired is all but metadata and status.
func desired(o *unstructured.Unstructured) map[string]any {
	d := map[string]any{}
	for k, v := range o.Object {
		if k != "metadata" && k != "status" && k != "apiVersion" {
			d[k] = v
		}
	}
	return d
}

// admit sets the few defaults that others rely on.
func admit(o *unstructured.Unstructured) {
	switch (schema.GroupKind{Group: o.GroupVersionKind().Group, Kind: o.GetKind()}) {
	case schema.GroupKind{Kind: "Namespace"}:
		labels := o.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels["kubernetes.io/metadata.name"] = o.GetName()
		o.SetLabels(labels)
	case schema.GroupKind{Kind: "Secret"}:
		if text(o, "type") == "" {
			_ = unstructured.SetNestedField(o.Object, "Opaque", "type")
		}
		texts, _, _ := unstructured.NestedStringMap(o.Object, "stringData")
		for k, v := range texts {
			_ = unstructured.SetNestedField(o.Object, base64Text([]byte(v)), "data", k)
		}
		delete(o.Object, "stringData")
	case schema.GroupKind{Kind: "Service"}:
		if text(o, "spec", "type") != "ExternalName" && text(o, "spec", "clusterIP") == "" {
			_ = unstructured.SetNestedField(o.Object, address("10.96", string(o.GetUID())), "spec", "clusterIP")
		}
		if text(o, "spec", "type") == "NodePort" {
			nodePorts(o)
		}
	}
}

// nodePorts gives the ports of a Service those of nodes.
func nodePorts(o *unstructured.Unstructured) {
	ports, _, _ := unstructured.NestedSlice(o.Object, "spec", "ports")
	for i, p := range ports {
		if p, ok := p.(map[string]any); ok && p["nodePort"] == nil {
			p["nodePort"] = 30000 + int64(number(string(o.GetUID()))+uint32(i))%2768
		}
	}
	_ = unstructured.SetNestedSlice(o.Object, ports, "spec", "ports")
}

// number is one that a text always gets.
func number(of string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(of)) // never fails
	return h.Sum32()
}

// address is one in a range that a text always gets.
func address(prefix, of string) string {
	sum := number(of)
	return fmt.Sprintf("%s.%d.%d", prefix, 1+sum>>8%250, 1+sum%250)
}

// save stores an object, and has the controllers act on it.
func (s *Server) save(o *unstructured.Unstructured) {
	s.version++
	o.SetResourceVersion(strconv.FormatInt(s.version, 10))
	s.objects[keyOf(o)] = o
	if o.GetDeletionTimestamp() != nil && len(o.GetFinalizers()) == 0 {
		s.remove(o)
		return
	}
	s.control(o)
}

// timeless is an object without the times of its managed fields.
func timeless(o *unstructured.Unstructured) map[string]any {
	o = o.DeepCopy()
	entries, _, _ := unstructured.NestedSlice(o.Object, "metadata", "managedFields")
	for _, e := range entries {
		if e, ok := e.(map[string]any); ok {
			delete(e, "time")
		}
	}
	if entries != nil {
		_ = unstructured.SetNestedSlice(o.Object, entries, "metadata", "managedFields")
	}
	delete(o.Object, "apiVersion") // it is stored in whichever version was written last
	return o.Object
}
