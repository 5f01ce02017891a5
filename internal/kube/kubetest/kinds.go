package kubetest

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kind is what the server serves under one group and version.
type kind struct {
	gvk        schema.GroupVersionKind
	resource   string
	namespaced bool
	// status says that the status is written by way of its own endpoint.
	status bool
}

func (k kind) groupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.gvk.Group, Resource: k.resource}
}

// builtin kinds: "group/version" → kinds, "*" before those without a namespace.
var builtin = map[string]string{
	"v1": "*Namespace *Node *PersistentVolume ConfigMap Endpoints Event LimitRange PersistentVolumeClaim Pod PodTemplate " +
		"ReplicationController ResourceQuota Secret Service ServiceAccount",
	"admissionregistration.k8s.io/v1": "*MutatingAdmissionPolicy *MutatingAdmissionPolicyBinding *MutatingWebhookConfiguration " +
		"*ValidatingAdmissionPolicy *ValidatingAdmissionPolicyBinding *ValidatingWebhookConfiguration",
	"apiextensions.k8s.io/v1":         "*CustomResourceDefinition",
	"apiregistration.k8s.io/v1":       "*APIService",
	"apps/v1":                         "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet",
	"authorization.k8s.io/v1":         "*SelfSubjectAccessReview",
	"autoscaling/v2":                  "HorizontalPodAutoscaler",
	"batch/v1":                        "CronJob Job",
	"certificates.k8s.io/v1":          "*CertificateSigningRequest",
	"coordination.k8s.io/v1":          "Lease",
	"discovery.k8s.io/v1":             "EndpointSlice",
	"events.k8s.io/v1":                "Event",
	"flowcontrol.apiserver.k8s.io/v1": "*FlowSchema *PriorityLevelConfiguration",
	"networking.k8s.io/v1":            "*IngressClass Ingress NetworkPolicy",
	"node.k8s.io/v1":                  "*RuntimeClass",
	"policy/v1":                       "PodDisruptionBudget",
	"rbac.authorization.k8s.io/v1":    "*ClusterRole *ClusterRoleBinding Role RoleBinding",
	"scheduling.k8s.io/v1":            "*PriorityClass",
	"storage.k8s.io/v1":               "*CSIDriver *CSINode *StorageClass *VolumeAttachment CSIStorageCapacity",
}

// builtins makes the kinds that every server has.
func builtins() []kind {
	var kinds []kind
	for apiVersion, names := range builtin {
		gv, _ := schema.ParseGroupVersion(apiVersion) // a constant
		for _, name := range strings.Fields(names) {
			name, cluster := strings.CutPrefix(name, "*")
			kinds = append(kinds, kind{gvk: gv.WithKind(name), resource: plural(name), namespaced: !cluster, status: true})
		}
	}
	return kinds
}

func plural(name string) string {
	lower := strings.ToLower(name)
	switch {
	case lower == "endpoints":
		return lower
	case strings.HasSuffix(lower, "s"):
		return lower + "es"
	case strings.HasSuffix(lower, "y"):
		return strings.TrimSuffix(lower, "y") + "ies"
	}
	return lower + "s"
}

// custom are the kinds that an established CRD defines.
func custom(crd *unstructured.Unstructured) []kind {
	group := text(crd, "spec", "group")
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	var kinds []kind
	for _, v := range versions {
		v, _ := v.(map[string]any)
		if served, _ := v["served"].(bool); !served {
			continue
		}
		version, _ := v["name"].(string)
		_, status, _ := unstructured.NestedFieldNoCopy(v, "subresources", "status")
		kinds = append(kinds, kind{
			gvk:        schema.GroupVersionKind{Group: group, Version: version, Kind: text(crd, "spec", "names", "kind")},
			resource:   text(crd, "spec", "names", "plural"),
			namespaced: text(crd, "spec", "scope") != "Cluster",
			status:     status,
		})
	}
	return kinds
}

func (k kind) discovered() []metav1.APIResource {
	r := metav1.APIResource{
		Name: k.resource, SingularName: strings.ToLower(k.gvk.Kind), Namespaced: k.namespaced, Kind: k.gvk.Kind,
		Verbs: metav1.Verbs{"create", "delete", "get", "list", "patch", "update"},
	}
	if !k.status {
		return []metav1.APIResource{r}
	}
	status := r
	status.Name, status.SingularName, status.Verbs = k.resource+"/status", "", metav1.Verbs{"get", "patch", "update"}
	return []metav1.APIResource{r, status}
}

func text(o *unstructured.Unstructured, path ...string) string {
	s, _, _ := unstructured.NestedString(o.Object, path...)
	return s
}
