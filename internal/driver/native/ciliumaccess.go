package native

import (
	"fmt"
	"os"
	"slices"

	"sigs.k8s.io/yaml"
)

// ciliumKinds are the custom resources that exist. Those of features that are off do not: who
// makes one is told so, instead of wondering why it does nothing.
var ciliumKinds = []string{
	"ciliumcidrgroups", "ciliumclusterwidenetworkpolicies", "ciliumendpoints", "ciliumidentities", "ciliuml2announcementpolicies",
	"ciliumloadbalancerippools", "ciliumnetworkpolicies", "ciliumnodeconfigs", "ciliumnodes", "ciliumpodippools",
}

// rule of a role: verbs on resources of one API group.
type rule struct {
	group     string
	resources []string
	verbs     []string
	names     []string // objects; nil for all
}

func (r rule) object() object {
	o := object{"apiGroups": []string{r.group}, "resources": r.resources, "verbs": r.verbs}
	if r.names != nil {
		o["resourceNames"] = r.names
	}
	return o
}

var (
	read  = []string{"get", "list", "watch"}
	watch = []string{"list", "watch"}
)

// ciliumAgentRules are what an agent asks of the API with the options that it is given here.
// It reads no Secret and writes nothing that is not Cilium's own.
var ciliumAgentRules = []rule{
	{"", []string{"namespaces", "services", "pods", "nodes"}, read, nil},
	{"discovery.k8s.io", []string{"endpointslices"}, read, nil},
	{"networking.k8s.io", []string{"networkpolicies"}, read, nil},
	{"apiextensions.k8s.io", []string{"customresourcedefinitions"}, watch, nil},
	{"cilium.io", []string{
		"ciliumcidrgroups", "ciliumclusterwidenetworkpolicies", "ciliumendpoints", "ciliumidentities",
		"ciliuml2announcementpolicies", "ciliumloadbalancerippools", "ciliumnetworkpolicies", "ciliumnodes", "ciliumpodippools",
	}, watch, nil},
	{"cilium.io", []string{"ciliumendpoints", "ciliumidentities", "ciliumnodes"}, []string{"create"}, nil},
	{"cilium.io", []string{"ciliumidentities"}, []string{"update"}, nil},
	{"cilium.io", []string{"ciliumendpoints"}, []string{"get", "patch", "delete"}, nil},
	{"cilium.io", []string{"ciliumendpoints/status"}, []string{"patch"}, nil},
	{"cilium.io", []string{"ciliumnodes", "ciliumnodes/status"}, []string{"get", "update"}, nil},
}

// ciliumOperatorRules are what the operator asks: mostly to collect what agents left behind.
var ciliumOperatorRules = []rule{
	{"", []string{"namespaces", "pods", "services"}, read, nil},
	{"", []string{"nodes"}, watch, nil},
	{"discovery.k8s.io", []string{"endpointslices"}, read, nil},
	{"apiextensions.k8s.io", []string{"customresourcedefinitions"}, read, nil},
	{"cilium.io", []string{
		"ciliumclusterwidenetworkpolicies", "ciliumendpointslices", "ciliumloadbalancerippools", "ciliumnetworkpolicies", "ciliumnodes", "ciliumpodippools",
	}, read, nil},
	{"cilium.io", []string{"ciliumclusterwidenetworkpolicies/status", "ciliumnetworkpolicies/status"}, []string{"patch", "update"}, nil},
	{"cilium.io", []string{"ciliumloadbalancerippools/status"}, []string{"patch"}, nil},
	{"cilium.io", []string{"ciliumendpoints", "ciliumidentities"}, []string{"list", "watch", "delete"}, nil},
	{"cilium.io", []string{"ciliumidentities"}, []string{"update"}, nil},
	{"cilium.io", []string{"ciliumnodes"}, []string{"create", "update", "delete"}, nil},
	{"cilium.io", []string{"ciliumnodes/status"}, []string{"update"}, nil},
}

// ciliumLeaseRules hold in ciliumNamespace: operators elect one of them.
var ciliumLeaseRules = []rule{
	{"coordination.k8s.io", []string{"leases"}, []string{"create", "get", "update"}, nil},
}

// objects are the rights of agents and operators, and the kinds that they work with.
func (cilium) objects(p paths) ([]object, error) {
	labels := object{"app.kubernetes.io/managed-by": "orrery", "app.kubernetes.io/part-of": "cilium"}
	const rbac = "rbac.authorization.k8s.io"
	grant := func(kind, namespace, name, group string, rules []rule) []object {
		var list []object
		for _, r := range rules {
			list = append(list, r.object())
		}
		meta := object{"name": name, "labels": labels}
		if namespace != "" {
			meta["namespace"] = namespace
		}
		return []object{
			{"apiVersion": rbac + "/v1", "kind": kind, "metadata": meta, "rules": list},
			{"apiVersion": rbac + "/v1", "kind": kind + "Binding", "metadata": meta,
				"roleRef":  object{"apiGroup": rbac, "kind": kind, "name": name},
				"subjects": []object{{"apiGroup": rbac, "kind": "Group", "name": group}}},
		}
	}
	all := slices.Concat(
		grant("ClusterRole", "", ciliumAgents, ciliumAgents, ciliumAgentRules),
		grant("ClusterRole", "", ciliumOperators, ciliumOperators, ciliumOperatorRules),
		grant("Role", ciliumNamespace, ciliumOperators, ciliumOperators, ciliumLeaseRules),
	)
	for _, kind := range ciliumKinds {
		f := p.join("dist", "crds", kind+".yaml")
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("a kind of Cilium's: %w; 'orrery up' puts it there", err)
		}
		crd := object{}
		if err := yaml.Unmarshal(b, &crd); err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		delete(crd, "status")
		all = append(all, crd)
	}
	return all, nil
}
