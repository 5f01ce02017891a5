package gitops

import (
	"cmp"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Object is one that Argo CD is to apply, as the server names its kind.
type Object struct {
	Group, Kind, Resource string
	Namespace, Name       string // Namespace is empty for those of the cluster
	Leaves                bool   // its component has it no longer: it is pruned
}

// GroupKind names a kind.
type GroupKind struct{ Group, Kind string }

// Kinds are the kinds and namespaces of a set of objects, each once and sorted.
type Kinds struct {
	Cluster, Namespaced []GroupKind
	Namespaces          []string
}

// KindsOf is what objects consist of.
func KindsOf(objects []Object) Kinds {
	cluster, namespaced, namespaces := map[GroupKind]bool{}, map[GroupKind]bool{}, map[string]bool{}
	for _, o := range objects {
		gk := GroupKind{o.Group, o.Kind}
		if o.Namespace == "" {
			cluster[gk] = true
			continue
		}
		namespaced[gk], namespaces[o.Namespace] = true, true
	}
	sorted := func(m map[GroupKind]bool) []GroupKind {
		return slices.SortedFunc(maps.Keys(m), func(a, b GroupKind) int {
			return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Kind, b.Kind))
		})
	}
	return Kinds{sorted(cluster), sorted(namespaced), slices.Sorted(maps.Keys(namespaces))}
}

const (
	account = "argocd-controller"
	applies = "argocd-applies"
	reads   = "argocd-reads"
	rbac    = "rbac.authorization.k8s.io"
)

// Rights are the roles that applying objects takes, and no more: each object by its name. bound are
// the roles that RoleBindings and ClusterRoleBindings among them refer to (kind → names). What
// would take others with it, namespaces and CRDs, is deleted where it leaves only.
func Rights(objects []Object, bound map[string][]string) []*unstructured.Unstructured {
	byNamespace := map[string][]Object{}
	for _, o := range objects {
		byNamespace[o.Namespace] = append(byNamespace[o.Namespace], o)
	}
	all := []*unstructured.Unstructured{
		role("ClusterRole", reads, "", readRules(objects)),
		binding("ClusterRoleBinding", reads, "", "ClusterRole"),
	}
	for _, namespace := range slices.Sorted(maps.Keys(byNamespace)) {
		rules := writeRules(byNamespace[namespace])
		if namespace == "" {
			rules = append(rules, bindRules("clusterroles", bound["ClusterRole"])...)
			all = append(all, role("ClusterRole", applies, "", rules), binding("ClusterRoleBinding", applies, "", "ClusterRole"))
			continue
		}
		// Which roles of its own a namespace's bindings name is in bound without the namespace: a
		// few names too many, of roles that are applied as well.
		rules = append(rules, bindRules("roles", bound["Role"])...)
		all = append(all, role("Role", applies, namespace, rules), binding("RoleBinding", applies, namespace, "Role"))
	}
	return all
}

// readRules: kinds are watched as a whole, but for Secrets, which are read by name where one is applied.
// Pods and ReplicaSets say how workloads are; Applications are what the root applies, and are watched as
// other kinds are only by who may list them everywhere.
func readRules(objects []Object) []any {
	kinds := map[[2]string]bool{{"", "pods"}: true, {"apps", "replicasets"}: true, {"argoproj.io", "applications"}: true}
	for _, o := range objects {
		if o.Group != "" || o.Resource != "secrets" {
			kinds[[2]string{o.Group, o.Resource}] = true
		}
	}
	return grouped(kinds, []any{"get", "list", "watch"})
}

func writeRules(objects []Object) []any {
	names, leaving := map[[2]string][]any{}, map[[2]string][]any{}
	for _, o := range objects {
		k := [2]string{o.Group, o.Resource}
		names[k] = append(names[k], o.Name)
		if o.Leaves {
			leaving[k] = append(leaving[k], o.Name)
		}
	}
	var rules []any
	rule := func(k [2]string, names, verbs []any) {
		slices.SortFunc(names, func(a, b any) int { return cmp.Compare(a.(string), b.(string)) })
		rules = append(rules, map[string]any{
			"apiGroups": []any{k[0]}, "resources": []any{k[1]}, "resourceNames": slices.Compact(names), "verbs": verbs,
		})
	}
	for _, k := range slices.SortedFunc(maps.Keys(names), compareKinds) {
		verbs := []any{"get", "create", "patch", "update", "delete"}
		switch {
		case k == [2]string{"", "namespaces"} || k == [2]string{"apiextensions.k8s.io", "customresourcedefinitions"}:
			verbs = verbs[:4]
			if len(leaving[k]) > 0 {
				rule(k, leaving[k], []any{"delete"})
			}
		case k[0] == rbac && (k[1] == "roles" || k[1] == "clusterroles"):
			// To write a role with rights that it has not itself: this one and no other.
			verbs = append(verbs, "escalate")
		}
		rule(k, names[k], verbs)
	}
	return rules
}

func bindRules(resource string, names []string) []any {
	if len(names) == 0 {
		return nil
	}
	var list []any
	for _, n := range slices.Compact(slices.Sorted(slices.Values(names))) {
		list = append(list, n)
	}
	return []any{map[string]any{"apiGroups": []any{rbac}, "resources": []any{resource}, "resourceNames": list, "verbs": []any{"bind"}}}
}

func grouped(kinds map[[2]string]bool, verbs []any) []any {
	byGroup := map[string][]any{}
	for _, k := range slices.SortedFunc(maps.Keys(kinds), compareKinds) {
		byGroup[k[0]] = append(byGroup[k[0]], k[1])
	}
	var rules []any
	for _, group := range slices.Sorted(maps.Keys(byGroup)) {
		rules = append(rules, map[string]any{"apiGroups": []any{group}, "resources": byGroup[group], "verbs": verbs})
	}
	return rules
}

func compareKinds(a, b [2]string) int {
	return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
}

func role(kind, name, namespace string, rules []any) *unstructured.Unstructured {
	o := access(kind, name, namespace)
	o.Object["rules"] = rules
	return o
}

func binding(kind, name, namespace, to string) *unstructured.Unstructured {
	o := access(kind, name, namespace)
	o.Object["roleRef"] = map[string]any{"apiGroup": rbac, "kind": to, "name": name}
	o.Object["subjects"] = []any{map[string]any{"kind": "ServiceAccount", "name": account, "namespace": Namespace}}
	return o
}

// LabelRights is on the roles and bindings of [Rights], so that they are found again.
const LabelRights = "orrery.dev/gitops"

func access(kind, name, namespace string) *unstructured.Unstructured {
	// As a component, so that an audit knows when its exceptions have to match.
	meta := map[string]any{"name": name, "labels": map[string]any{LabelRights: "rights", "orrery.dev/component": "gitops"}}
	if namespace != "" {
		meta["namespace"] = namespace
	}
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": rbac + "/v1", "kind": kind, "metadata": meta}}
}

// Bound are the roles that bindings among objects refer to, by kind.
func Bound(objects []*unstructured.Unstructured) map[string][]string {
	bound := map[string][]string{}
	for _, o := range objects {
		if o.GetKind() != "RoleBinding" && o.GetKind() != "ClusterRoleBinding" {
			continue
		}
		kind, _, _ := unstructured.NestedString(o.Object, "roleRef", "kind")
		name, _, _ := unstructured.NestedString(o.Object, "roleRef", "name")
		bound[kind] = append(bound[kind], name)
	}
	return bound
}
