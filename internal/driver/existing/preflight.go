package existing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube"
)

// The oldest Kubernetes that has all that the catalogue uses (ValidatingAdmissionPolicy is
// stable from 1.30), and the newest that is tried.
var oldest, newest = version.MajorMinor(1, 30), version.MajorMinor(1, 37)

// Preflight implements [driver.Driver]: what the cluster is. What would be applied to it is
// compared with it by those who know that.
func (d *Driver) Preflight(context.Context) []check.Condition {
	ask := func(name string, probe func(context.Context, *kube.Client) check.Result) check.Condition {
		return check.Condition{Component: "cluster", Name: name, Probe: func(ctx context.Context) check.Result {
			client, err := d.connect(ctx)
			if err != nil {
				return check.Fail(err)
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(ctx, lookTime)
			defer cancel()
			return probe(ctx, client)
		}}
	}
	return []check.Condition{ask("version", kubernetes), ask("nodes", schedulable), ask("network", network), ask("pod-security", podSecurity)}
}

func kubernetes(ctx context.Context, c *kube.Client) check.Result {
	data, err := c.RawGet(ctx, "/version")
	if err != nil {
		return check.Fail(fmt.Errorf("the cluster does not answer: %w", err))
	}
	var answer struct {
		GitVersion string `json:"gitVersion"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return check.Fail(fmt.Errorf("/version: %w", err))
	}
	v, err := version.ParseGeneric(answer.GitVersion)
	if err != nil {
		return check.Skip("the cluster says it is %q, which is no version", answer.GitVersion)
	}
	minor := version.MajorMinor(v.Major(), v.Minor())
	switch {
	case minor.LessThan(oldest):
		return check.Fail(fmt.Errorf("the cluster is Kubernetes %s; the catalogue needs %s or newer", answer.GitVersion, oldest))
	case newest.LessThan(minor):
		return check.Skip("the cluster is Kubernetes %s; nobody has tried what is newer than %s", answer.GitVersion, newest)
	}
	return check.OK("Kubernetes %s", answer.GitVersion)
}

func schedulable(ctx context.Context, c *kube.Client) check.Result {
	nodes, err := c.List(ctx, "v1", "Node", "", "")
	if err != nil {
		return check.Fail(err)
	}
	if err := ready(ctx, c); err != nil {
		return check.Skip("%v", err)
	}
	zones := map[string]bool{}
	for _, n := range nodes {
		if z := n.GetLabels()["topology.kubernetes.io/zone"]; z != "" {
			zones[z] = true
		}
	}
	if len(zones) == 0 {
		return check.Skip("%d nodes, and none says in which zone it is (topology.kubernetes.io/zone):"+
			" nothing can be spread over zones", len(nodes))
	}
	return check.OK("%d nodes in %d zones", len(nodes), len(zones))
}

// Networks by the names of their DaemonSets, and whether they enforce network policies.
var networks = []struct {
	daemonSet, name string
	enforces        bool
}{
	{"cilium", "Cilium", true}, {"calico-node", "Calico", true}, {"antrea-agent", "Antrea", true}, {"kube-router", "kube-router", true},
	{"weave-net", "Weave Net", true}, {"anetd", "GKE Dataplane V2", true}, {"azure-npm", "Azure NPM", true},
	{"kindnet", "kindnet", true}, {"aws-node", "the Amazon VPC CNI", false}, {"kube-flannel-ds", "Flannel", false}, {"kube-flannel", "Flannel", false},
}

// network tells what is known. Whether policies hold is proved by the check network-policy.
func network(ctx context.Context, c *kube.Client) check.Result {
	sets, err := c.List(ctx, "apps/v1", "DaemonSet", "", "")
	if err != nil {
		return check.Skip("which network the cluster has cannot be told: %v", err)
	}
	for _, n := range networks {
		if !slices.ContainsFunc(sets, func(s unstructured.Unstructured) bool { return s.GetName() == n.daemonSet }) {
			continue
		}
		if !n.enforces {
			return check.Skip("%s, which by default enforces no network policies; the check network-policy proves it", n.name)
		}
		return check.OK("%s, which enforces network policies; the check network-policy proves it", n.name)
	}
	return check.Skip("a network that is not known here; the check network-policy proves whether it enforces policies")
}

// podSecurity tells which namespaces hold pods to a level of their own. Namespaces that are
// applied say theirs.
func podSecurity(ctx context.Context, c *kube.Client) check.Result {
	namespaces, err := c.List(ctx, "v1", "Namespace", "", "")
	if err != nil {
		return check.Fail(err)
	}
	var strict []string
	for _, ns := range namespaces {
		if level := ns.GetLabels()["pod-security.kubernetes.io/enforce"]; level != "" && level != "privileged" {
			strict = append(strict, ns.GetName()+" "+level)
		}
	}
	if _, err := c.List(ctx, "policy/v1beta1", "PodSecurityPolicy", "", ""); err == nil {
		return check.Fail(errors.New("the cluster has PodSecurityPolicies, which Kubernetes 1.25 removed"))
	}
	if strict == nil {
		return check.OK("no namespace is held to a level yet")
	}
	return check.OK("levels of namespaces: %s", strings.Join(strict, ", "))
}
