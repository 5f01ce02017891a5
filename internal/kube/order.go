package kube

import (
	"cmp"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// rank is the place of a kind in the order of application: what others refer to goes
// first. Objects of one rank do not depend on each other.
type rank int

const (
	rankNamespace rank = iota
	rankCRD
	rankAccess // accounts, roles, and classes that workloads name
	rankConfig
	rankService
	rankWorkload
	rankRest // custom resources; and what can block others: webhooks, aggregated APIs
	ranks
)

var kindRanks = map[schema.GroupKind]rank{
	{Kind: "Namespace"}: rankNamespace,

	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: rankCRD,

	{Kind: "ServiceAccount"}:                                         rankAccess,
	{Group: "rbac.authorization.k8s.io", Kind: "Role"}:               rankAccess,
	{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"}:        rankAccess,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}:        rankAccess,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}: rankAccess,
	{Group: "scheduling.k8s.io", Kind: "PriorityClass"}:              rankAccess,
	{Group: "storage.k8s.io", Kind: "StorageClass"}:                  rankAccess,
	{Group: "node.k8s.io", Kind: "RuntimeClass"}:                     rankAccess,
	{Group: "networking.k8s.io", Kind: "IngressClass"}:               rankAccess,
	{Kind: "ResourceQuota"}:                                          rankAccess,
	{Kind: "LimitRange"}:                                             rankAccess,
	{Group: "networking.k8s.io", Kind: "NetworkPolicy"}:              rankAccess,

	{Kind: "ConfigMap"}:             rankConfig,
	{Kind: "Secret"}:                rankConfig,
	{Kind: "PersistentVolume"}:      rankConfig,
	{Kind: "PersistentVolumeClaim"}: rankConfig,

	{Kind: "Service"}: rankService,

	{Kind: "Pod"}:                                  rankWorkload,
	{Kind: "ReplicationController"}:                rankWorkload,
	{Group: "apps", Kind: "Deployment"}:            rankWorkload,
	{Group: "apps", Kind: "ReplicaSet"}:            rankWorkload,
	{Group: "apps", Kind: "StatefulSet"}:           rankWorkload,
	{Group: "apps", Kind: "DaemonSet"}:             rankWorkload,
	{Group: "batch", Kind: "Job"}:                  rankWorkload,
	{Group: "batch", Kind: "CronJob"}:              rankWorkload,
	{Group: "policy", Kind: "PodDisruptionBudget"}: rankService,
}

func rankOf(gk schema.GroupKind) rank {
	if r, ok := kindRanks[gk]; ok {
		return r
	}
	return rankRest
}

func (r Ref) rank() rank {
	i := r.id()
	return rankOf(schema.GroupKind{Group: i.group, Kind: i.kind})
}

// compareRefs orders objects for application; ties are broken so that the order never
// depends on where an object came from.
func compareRefs(a, b Ref) int {
	x, y := a.id(), b.id()
	return cmp.Or(
		cmp.Compare(a.rank(), b.rank()),
		cmp.Compare(x.group, y.group),
		cmp.Compare(x.kind, y.kind),
		cmp.Compare(x.namespace, y.namespace),
		cmp.Compare(x.name, y.name),
	)
}

func sortObjects(objs []*unstructured.Unstructured) {
	slices.SortStableFunc(objs, func(a, b *unstructured.Unstructured) int { return compareRefs(refOf(a), refOf(b)) })
}

// clusterKinds are the built-in kinds without a namespace. Rendering has no server to
// ask; a custom kind is looked up in the CRDs rendered beside it and else taken as
// namespaced, which applying corrects when the server knows better.
var clusterKinds = map[schema.GroupKind]bool{
	{Kind: "Namespace"}: true, {Kind: "Node"}: true, {Kind: "PersistentVolume"}: true,
	{Group: "admissionregistration.k8s.io", Kind: "MutatingAdmissionPolicy"}:          true,
	{Group: "admissionregistration.k8s.io", Kind: "MutatingAdmissionPolicyBinding"}:   true,
	{Group: "admissionregistration.k8s.io", Kind: "MutatingWebhookConfiguration"}:     true,
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicy"}:        true,
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingAdmissionPolicyBinding"}: true,
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"}:   true,
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}:                 true,
	{Group: "apiregistration.k8s.io", Kind: "APIService"}:                             true,
	{Group: "certificates.k8s.io", Kind: "CertificateSigningRequest"}:                 true,
	{Group: "certificates.k8s.io", Kind: "ClusterTrustBundle"}:                        true,
	{Group: "flowcontrol.apiserver.k8s.io", Kind: "FlowSchema"}:                       true,
	{Group: "flowcontrol.apiserver.k8s.io", Kind: "PriorityLevelConfiguration"}:       true,
	{Group: "networking.k8s.io", Kind: "IngressClass"}:                                true,
	{Group: "networking.k8s.io", Kind: "IPAddress"}:                                   true,
	{Group: "networking.k8s.io", Kind: "ServiceCIDR"}:                                 true,
	{Group: "node.k8s.io", Kind: "RuntimeClass"}:                                      true,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}:                         true,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}:                  true,
	{Group: "resource.k8s.io", Kind: "DeviceClass"}:                                   true,
	{Group: "resource.k8s.io", Kind: "ResourceSlice"}:                                 true,
	{Group: "scheduling.k8s.io", Kind: "PriorityClass"}:                               true,
	{Group: "storage.k8s.io", Kind: "CSIDriver"}:                                      true,
	{Group: "storage.k8s.io", Kind: "CSINode"}:                                        true,
	{Group: "storage.k8s.io", Kind: "StorageClass"}:                                   true,
	{Group: "storage.k8s.io", Kind: "VolumeAttachment"}:                               true,
	{Group: "storage.k8s.io", Kind: "VolumeAttributesClass"}:                          true,
}

// definedKinds yields the custom kinds that the CRDs among objs define, and whether
// they are namespaced.
func definedKinds(objs []*unstructured.Unstructured) map[schema.GroupKind]bool {
	kinds := map[schema.GroupKind]bool{}
	for _, o := range objs {
		if rankOf(o.GroupVersionKind().GroupKind()) != rankCRD {
			continue
		}
		group, _, _ := unstructured.NestedString(o.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(o.Object, "spec", "names", "kind")
		scope, _, _ := unstructured.NestedString(o.Object, "spec", "scope")
		kinds[schema.GroupKind{Group: group, Kind: kind}] = scope != "Cluster"
	}
	return kinds
}
