package kubetest

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json" // integers stay integers
)

const maxBody = 16 << 20

func base64Text(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

// failure is the answer that a real server gives with that code.
func failure(code int, message string) metav1.Status {
	status := apierrors.NewGenericServerResponse(code, "", schema.GroupResource{}, "", message, 0, true).Status()
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	if message != "" {
		status.Message = message
	}
	return status
}

func refuse(w http.ResponseWriter, err error) {
	known := apierrors.APIStatus(nil)
	switch {
	case errors.Is(err, errNoSuchPath):
		reply(w, http.StatusNotFound, failure(http.StatusNotFound, err.Error()))
	case errors.As(err, &known):
		status := known.Status()
		status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
		reply(w, int(status.Code), status)
	default:
		reply(w, http.StatusBadRequest, failure(http.StatusBadRequest, err.Error()))
	}
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if namespace, pod, ok := podVerb(r.URL.Path, "exec"); ok {
		s.serveExec(w, r, Exec{namespace, pod, r.URL.Query().Get("container"), r.URL.Query()["command"]})
		return
	}
	if namespace, pod, ok := podVerb(r.URL.Path, "portforward"); ok {
		s.serveForward(w, r, namespace, pod)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		refuse(w, fmt.Errorf("read the request: %w", err))
		return
	}
	if r.URL.Path == "/version" {
		reply(w, http.StatusOK, map[string]string{"major": "1", "minor": strings.Split(Version, ".")[1], "gitVersion": Version,
			"platform": "test/test"})
		return
	}
	code, answer, err := s.locked(r, body)
	if err != nil {
		refuse(w, err)
		return
	}
	if log, ok := answer.(podLog); ok {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, string(log))
		return
	}
	reply(w, code, answer)
}

// locked does what is asked for; the answer is a copy.
func (s *Server) locked(r *http.Request, body []byte) (code int, answer any, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	var gv schema.GroupVersion
	switch {
	case len(parts) == 1 && parts[0] == "api":
		return http.StatusOK, metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}}, nil
	case len(parts) == 1 && parts[0] == "apis":
		return http.StatusOK, s.groups(), nil
	case parts[0] == "api":
		gv, parts = schema.GroupVersion{Version: parts[1]}, parts[2:]
	case parts[0] == "apis" && len(parts) > 2:
		gv, parts = schema.GroupVersion{Group: parts[1], Version: parts[2]}, parts[3:]
	default:
		return 0, nil, errNoSuchPath
	}
	if len(parts) == 0 {
		list := s.discover(gv)
		if list.APIResources == nil {
			return 0, nil, errNoSuchPath
		}
		return http.StatusOK, list, nil
	}
	q, err := s.parse(gv, parts)
	if err != nil {
		return 0, nil, err
	}
	q.method, q.query, q.body, q.contentType, q.accept = r.Method, r.URL.Query(), body, r.Header.Get("Content-Type"), r.Header.Get("Accept")
	if err := s.authorize(q); err != nil {
		return 0, nil, err
	}
	if q.subresource == "log" {
		log, err := s.log(q)
		return http.StatusOK, log, err
	}
	return s.answer(q)
}

func (s *Server) groups() metav1.APIGroupList {
	list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
	seen := map[schema.GroupVersion]bool{}
	for gvk := range s.kinds {
		gv := gvk.GroupVersion()
		if gv.Group == "" || seen[gv] {
			continue
		}
		seen[gv] = true
		version := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
		i := slices.IndexFunc(list.Groups, func(g metav1.APIGroup) bool { return g.Name == gv.Group })
		if i < 0 {
			list.Groups, i = append(list.Groups, metav1.APIGroup{Name: gv.Group, PreferredVersion: version}), len(list.Groups)
		}
		list.Groups[i].Versions = append(list.Groups[i].Versions, version)
	}
	slices.SortFunc(list.Groups, func(a, b metav1.APIGroup) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

func (s *Server) discover(gv schema.GroupVersion) metav1.APIResourceList {
	list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: gv.String()}
	for gvk, k := range s.kinds {
		if gvk.GroupVersion() == gv {
			list.APIResources = append(list.APIResources, k.discovered()...)
		}
	}
	slices.SortFunc(list.APIResources, func(a, b metav1.APIResource) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// request is one about objects.
type request struct {
	kind                         kind
	namespace, name, subresource string
	method                       string
	query                        url.Values
	body                         []byte
	contentType, accept          string
}

func (q request) key() key { return key{q.kind.gvk.Group, q.kind.gvk.Kind, q.namespace, q.name} }

func (q request) dryRun() bool { return q.query.Get("dryRun") == metav1.DryRunAll }

// manager of the fields that the request sets.
func (q request) manager() string { return cmp.Or(q.query.Get("fieldManager"), "unknown") }

func (q request) notFound() error { return apierrors.NewNotFound(q.kind.groupResource(), q.name) }

// parse reads [namespaces/NAMESPACE/]RESOURCE[/NAME[/SUBRESOURCE]].
func (s *Server) parse(gv schema.GroupVersion, parts []string) (request, error) {
	var q request
	if parts[0] == "namespaces" && len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
		q.namespace, parts = parts[1], parts[2:]
	}
	for gvk, k := range s.kinds {
		if gvk.GroupVersion() == gv && k.resource == parts[0] {
			q.kind = k
		}
	}
	if q.kind.resource == "" || len(parts) > 3 || (q.namespace != "" && !q.kind.namespaced) {
		return q, errNoSuchPath
	}
	if len(parts) > 1 {
		q.name = parts[1]
	}
	if len(parts) > 2 {
		q.subresource = parts[2]
	}
	if q.name != "" && q.kind.namespaced && q.namespace == "" {
		return q, errNoSuchPath
	}
	return q, nil
}

// answer does what is asked for.
func (s *Server) answer(q request) (int, any, error) {
	switch q.subresource {
	case "", "status":
	default:
		return 0, nil, errNoSuchPath
	}
	live := s.objects[q.key()]
	switch {
	case q.method == http.MethodGet && q.name == "":
		list, err := s.list(q)
		return http.StatusOK, list, err
	case q.method == http.MethodGet && live == nil:
		return 0, nil, q.notFound()
	case q.method == http.MethodGet:
		return http.StatusOK, shown(q.kind, live), nil
	case q.method == http.MethodPost && q.name == "":
		return s.create(q)
	case q.method == http.MethodPut && live != nil:
		return s.update(q, live)
	case q.method == http.MethodPatch && strings.HasPrefix(q.contentType, "application/apply-patch+"):
		return s.apply(q, live)
	case q.method == http.MethodPatch && live != nil:
		return s.patch(q, live)
	case q.method == http.MethodDelete && live != nil:
		return s.delete(q, live)
	case q.name != "" && live == nil:
		return 0, nil, q.notFound()
	}
	return 0, nil, apierrors.NewMethodNotSupported(q.kind.groupResource(), q.method)
}

// shown is an object in the version that was asked for.
func shown(k kind, o *unstructured.Unstructured) map[string]any {
	o = o.DeepCopy()
	o.SetGroupVersionKind(k.gvk)
	return o.Object
}

func (s *Server) list(q request) (any, error) {
	if q.query.Get("watch") != "" {
		return nil, apierrors.NewMethodNotSupported(q.kind.groupResource(), "watch")
	}
	byLabel, err := labels.Parse(q.query.Get("labelSelector"))
	if err != nil {
		return nil, err
	}
	byField, err := fields.ParseSelector(q.query.Get("fieldSelector"))
	if err != nil {
		return nil, err
	}
	items := []any{}
	for _, o := range s.all(q.kind.gvk.GroupKind()) {
		if q.namespace != "" && o.GetNamespace() != q.namespace || !byLabel.Matches(labels.Set(o.GetLabels())) || !hasFields(o, byField) {
			continue
		}
		item := shown(q.kind, o)
		if strings.Contains(q.accept, "as=PartialObjectMetadataList") {
			item = map[string]any{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": item["metadata"]}
		}
		items = append(items, item)
	}
	list := map[string]any{
		"apiVersion": q.kind.gvk.GroupVersion().String(), "kind": q.kind.gvk.Kind + "List",
		"metadata": map[string]any{"resourceVersion": fmt.Sprint(s.version)}, "items": items,
	}
	if strings.Contains(q.accept, "as=PartialObjectMetadataList") {
		list["apiVersion"], list["kind"] = "meta.k8s.io/v1", "PartialObjectMetadataList"
	}
	return list, nil
}

// all objects of a kind, by namespace and name.
func (s *Server) all(gk schema.GroupKind) []*unstructured.Unstructured {
	var found []*unstructured.Unstructured
	for k, o := range s.objects {
		if k.group == gk.Group && k.kind == gk.Kind {
			found = append(found, o)
		}
	}
	slices.SortFunc(found, func(a, b *unstructured.Unstructured) int {
		return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return found
}

// hasFields matches any path of a field, which is more than a real server does.
func hasFields(o *unstructured.Unstructured, selector fields.Selector) bool {
	set := fields.Set{}
	for _, r := range selector.Requirements() {
		if v, ok, _ := unstructured.NestedFieldNoCopy(o.Object, strings.Split(r.Field, ".")...); ok {
			set[r.Field] = fmt.Sprint(v)
		}
	}
	return selector.Matches(set)
}

func decode(body []byte) (*unstructured.Unstructured, error) {
	o := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(body, &o.Object); err != nil {
		return nil, fmt.Errorf("read the object: %w", err)
	}
	return o, nil
}
