package kubetest

import (
	"errors"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// right is what may be done with a resource.
type right struct{ verb, group, resource string }

// Deny takes a right from whoever asks the server: requests of that verb ("list", "patch", …)
// about that resource are forbidden, and a SelfSubjectAccessReview says so. An empty verb is
// every one.
func (s *Server) Deny(verb, group, resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied[right{verb, group, resource}] = true
}

func (s *Server) may(r right) bool {
	return !s.denied[r] && !s.denied[right{"", r.group, r.resource}]
}

// verb of a request, as RBAC has it.
func (q request) verb() string {
	switch {
	case q.method == http.MethodGet && q.name == "":
		return "list"
	case q.method == http.MethodGet:
		return "get"
	case q.method == http.MethodPost:
		return "create"
	case q.method == http.MethodPut:
		return "update"
	case q.method == http.MethodPatch:
		return "patch"
	}
	return "delete"
}

func (s *Server) authorize(q request) error {
	if s.may(right{q.verb(), q.kind.gvk.Group, q.kind.resource}) {
		return nil
	}
	return apierrors.NewForbidden(q.kind.groupResource(), q.name, errors.New("a test denies it"))
}

// review answers a SelfSubjectAccessReview, which is not stored.
func (s *Server) review(o *unstructured.Unstructured) map[string]any {
	o = o.DeepCopy()
	asked := func(field string) string { return text(o, "spec", "resourceAttributes", field) }
	status := map[string]any{"allowed": s.may(right{asked("verb"), asked("group"), asked("resource")})}
	if status["allowed"] == false {
		status["reason"] = "a test denies it"
	}
	o.Object["status"] = status
	return o.Object
}
