package kubetest

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"strconv"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/yaml"
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
		o.SetCreationTimestamp(metav1.Now().Rfc3339Copy())
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

// commit finishes a write: nothing is stored when nothing but times has changed, or on a
// dry run.
func (s *Server) commit(q request, o, live *unstructured.Unstructured) map[string]any {
	s.complete(o, live)
	if live != nil {
		o.SetResourceVersion(live.GetResourceVersion())
		if apiequality.Semantic.DeepEqual(timeless(o), timeless(live)) {
			return shown(q.kind, live)
		}
	}
	if q.dryRun() {
		return shown(q.kind, o)
	}
	s.save(o)
	return shown(q.kind, o)
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

// manager of fields, as an API server has one for each kind: the real one, over types that
// it deduces, where mappings are merged and lists are not.
func (q request) fields() (*managedfields.FieldManager, error) {
	gvk := q.kind.gvk
	return managedfields.NewDefaultFieldManager(managedfields.NewDeducedTypeConverter(), asItIs{}, asItIs{}, asItIs{}, gvk,
		gvk.GroupVersion(), q.subresource, nil)
}

// asItIs is what a server without schemas knows about converting, defaulting and making.
type asItIs struct{}

func (asItIs) Convert(_, _, _ any) error { return fmt.Errorf("no conversions here") }

func (asItIs) ConvertToVersion(o runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	return o, nil
}

func (asItIs) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}

func (asItIs) Default(runtime.Object) {}

func (asItIs) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(gvk)
	return o, nil
}

// allowed refuses new objects where there is no place for them.
func (s *Server) allowed(q request) error {
	if !q.kind.namespaced {
		return nil
	}
	ns := s.objects[key{"", "Namespace", "", q.namespace}]
	switch {
	case q.namespace == "":
		return apierrors.NewBadRequest("an empty namespace may not be set during creation")
	case ns == nil:
		return apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, q.namespace)
	case ns.GetDeletionTimestamp() != nil:
		return apierrors.NewForbidden(q.kind.groupResource(), q.name,
			fmt.Errorf("unable to create new content in namespace %s because it is being terminated", q.namespace))
	}
	return nil
}

// identify reads an object and gives it the place that the request names.
func (q *request) identify(o *unstructured.Unstructured) error {
	if o.GroupVersionKind() != q.kind.gvk {
		return apierrors.NewBadRequest(fmt.Sprintf("the object is a %s, the path is of %s", o.GroupVersionKind(), q.kind.gvk))
	}
	if o.GetName() == "" && o.GetGenerateName() != "" {
		o.SetName(o.GetGenerateName() + string(uuid.NewUUID())[:5])
	}
	if q.name == "" {
		q.name = o.GetName()
	}
	if q.kind.namespaced {
		if ns := o.GetNamespace(); ns != "" && ns != q.namespace {
			return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the object (%s) does not match the namespace of the request (%s)", ns,
				q.namespace))
		}
		o.SetNamespace(q.namespace)
	}
	if o.GetName() != q.name || q.name == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name of the request (%s)", o.GetName(),
			q.name))
	}
	return nil
}

func (s *Server) create(q request) (int, any, error) {
	o, err := decode(q.body)
	if err == nil && q.kind.gvk.Kind == "SelfSubjectAccessReview" {
		return http.StatusCreated, s.review(o), nil
	}
	if err == nil {
		err = q.identify(o)
	}
	if err == nil {
		err = s.allowed(q)
	}
	if err != nil {
		return 0, nil, err
	}
	if s.objects[q.key()] != nil {
		return 0, nil, apierrors.NewAlreadyExists(q.kind.groupResource(), q.name)
	}
	if q.kind.status {
		delete(o.Object, "status")
	}
	manager, err := q.fields()
	if err != nil {
		return 0, nil, err
	}
	empty, _ := asItIs{}.New(q.kind.gvk)
	o = manager.UpdateNoErrors(empty, o, q.manager()).(*unstructured.Unstructured)
	return http.StatusCreated, s.commit(q, o, nil), nil
}

func (s *Server) update(q request, live *unstructured.Unstructured) (int, any, error) {
	o, err := decode(q.body)
	if err == nil {
		err = q.identify(o)
	}
	if err != nil {
		return 0, nil, err
	}
	if rv := o.GetResourceVersion(); rv != "" && rv != live.GetResourceVersion() {
		return 0, nil, apierrors.NewConflict(q.kind.groupResource(), q.name,
			fmt.Errorf("the object has been modified; please apply your changes to the latest version and try again"))
	}
	return s.replace(q, o, live)
}

// replace makes o of live, or only its status, or all but its status.
func (s *Server) replace(q request, o, live *unstructured.Unstructured) (int, any, error) {
	switch {
	case q.subresource == "status":
		all := live.DeepCopy()
		all.Object["status"] = o.Object["status"]
		o = all
	case q.kind.status:
		delete(o.Object, "status")
		if status, ok := live.Object["status"]; ok {
			o.Object["status"] = runtime.DeepCopyJSONValue(status)
		}
	}
	manager, err := q.fields()
	if err != nil {
		return 0, nil, err
	}
	before := live.DeepCopy()
	before.SetGroupVersionKind(q.kind.gvk)
	o = manager.UpdateNoErrors(before, o, q.manager()).(*unstructured.Unstructured)
	return http.StatusOK, s.commit(q, o, live), nil
}

func (s *Server) patch(q request, live *unstructured.Unstructured) (int, any, error) {
	switch q.contentType {
	case "application/merge-patch+json", "application/strategic-merge-patch+json":
	default:
		return 0, nil, apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "patch", q.kind.groupResource(), q.name,
			"the test's API server takes no "+q.contentType, 0, true)
	}
	change, err := decode(q.body)
	if err != nil {
		return 0, nil, err
	}
	o := live.DeepCopy()
	o.SetGroupVersionKind(q.kind.gvk)
	o.Object, _ = merged(o.Object, change.Object).(map[string]any)
	return s.replace(q, o, live)
}

// merged is a JSON merge patch (RFC 7386).
func merged(to, change any) any {
	changes, ok := change.(map[string]any)
	if !ok {
		return change
	}
	m, ok := to.(map[string]any)
	if !ok {
		m = map[string]any{}
	}
	for k, v := range changes {
		if v == nil {
			delete(m, k)
			continue
		}
		m[k] = merged(m[k], v)
	}
	return m
}

// apply is server-side apply.
func (s *Server) apply(q request, live *unstructured.Unstructured) (int, any, error) {
	if q.query.Get("fieldManager") == "" {
		return 0, nil, apierrors.NewBadRequest("fieldManager is required for apply patch")
	}
	body, err := yaml.YAMLToJSON(q.body)
	if err != nil {
		return 0, nil, apierrors.NewBadRequest(err.Error())
	}
	o, err := decode(body)
	if err == nil {
		err = q.identify(o)
	}
	if err == nil && live == nil {
		err = s.allowed(q)
	}
	if err != nil {
		return 0, nil, err
	}
	if q.kind.status && q.subresource == "" {
		delete(o.Object, "status")
	}
	manager, err := q.fields()
	if err != nil {
		return 0, nil, err
	}
	code, before := http.StatusOK, live.DeepCopy()
	if live == nil {
		code = http.StatusCreated
		empty, _ := asItIs{}.New(q.kind.gvk)
		before, _ = empty.(*unstructured.Unstructured)
	}
	before.SetGroupVersionKind(q.kind.gvk)
	after, err := manager.Apply(before, o, q.manager(), q.query.Get("force") == "true")
	if err != nil {
		return 0, nil, err
	}
	result, ok := after.(*unstructured.Unstructured)
	if !ok {
		return 0, nil, fmt.Errorf("applying %s gave a %T", q.name, after)
	}
	return code, s.commit(q, result, live), nil
}

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
