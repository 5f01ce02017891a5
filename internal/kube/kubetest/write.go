package kubetest

import (
	"fmt"
	"net/http"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/yaml"
)

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
