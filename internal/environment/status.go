package environment

import (
	"context"
	"fmt"
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/engine"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
)

// Status is what `status -o json` prints; its form is a contract.
type Status struct {
	Environment string          `json:"environment"`
	Driver      string          `json:"driver"`
	Phase       string          `json:"phase"`
	Durability  spec.Durability `json:"durability"`
	// Network is the plugin, with the reason when auto could not be cilium.
	Network       string            `json:"network"`
	NetworkReason string            `json:"networkReason,omitempty"`
	Nodes         []NodeStatus      `json:"nodes"`
	Components    []ComponentStatus `json:"components"`
	Endpoints     map[string]string `json:"endpoints"`
	// Services that do not do what they say, in a cluster of our own.
	Services []ServiceStatus `json:"services,omitempty"`
	// Workloads of people that get no pods, since admission or a quota refuses them.
	Workloads []WorkloadStatus `json:"workloads,omitempty"`
	// Kubeconfig is the path of the admin kubeconfig, when there is one.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// Warnings are lines for a person, about what works and may not be what they think.
	Warnings []string `json:"warnings,omitempty"`
}

// NodeStatus is one node.
type NodeStatus struct {
	Name    string      `json:"name"`
	Role    driver.Role `json:"role"`
	Zone    string      `json:"zone"`
	Ready   bool        `json:"ready"`
	Address string      `json:"address"`
	State   string      `json:"state"` // ready | not ready | down | stopped
	// Reason is what the cluster says against the node, which may be ready: a full disk, a taint.
	Reason string `json:"reason,omitempty"`
}

// ComponentState is how a component is.
type ComponentState string

// States of a component.
const (
	ComponentReady       ComponentState = "ready"
	ComponentProgressing ComponentState = "progressing"
	ComponentFailed      ComponentState = "failed"
	ComponentSkipped     ComponentState = "skipped"
)

// ComponentStatus is one component.
type ComponentStatus struct {
	Name      string         `json:"name"`
	Namespace string         `json:"namespace"`
	State     ComponentState `json:"state"`
	Reason    string         `json:"reason"`
	// Cause of what is skipped.
	Cause plan.Cause `json:"cause,omitzero"`
}

// ServiceStatus is a Service of type LoadBalancer without an address.
type ServiceStatus struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	State     string `json:"state"` // pending
	Reason    string `json:"reason"`
}

// WorkloadStatus is a Deployment that belongs to no component and whose pods are refused.
type WorkloadStatus struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	State     string `json:"state"` // refused
	Reason    string `json:"reason"`
}

// statusTimeout bounds what status waits for a cluster that does not answer.
const statusTimeout = 15 * time.Second

// Status asks the driver and, when the API answers, the cluster.
func (e *Environment) Status(ctx context.Context) (Status, error) {
	obs, err := e.Observe(ctx)
	if err != nil {
		return Status{}, err
	}
	if !runs(obs) {
		return e.statusOf(ctx, obs, clusterState{}), nil
	}
	client, err := e.connect(obs.Kubeconfig)
	if err != nil {
		return e.statusOf(ctx, obs, clusterState{unread: err}), nil
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	st := e.statusOf(ctx, obs, lookAt(ctx, client))
	st.Warnings = append(st.Warnings, e.movedTags(ctx, client)...)
	if st.Workloads, err = refused(ctx, client); err != nil {
		st.Warnings = append(st.Warnings, "whether workloads are refused their pods cannot be told: "+err.Error())
	}
	return st, nil
}

// runs: something of it may answer.
func runs(obs driver.Observation) bool {
	return (obs.Phase == driver.PhaseRunning || obs.Phase == driver.PhasePartial) && obs.Kubeconfig != ""
}

// StatusOf is the status as it was seen when a plan was made.
func (p *Platform) StatusOf(ctx context.Context, seen Planned) Status {
	return p.statusOf(ctx, seen.Observation, seen.cluster)
}

func (e *Environment) statusOf(ctx context.Context, obs driver.Observation, seen clusterState) Status {
	st := Status{
		Environment: e.Spec.Name, Driver: e.Spec.Driver, Phase: string(obs.Phase), Durability: e.Spec.Durability,
		Network: e.Spec.Network.Plugin, NetworkReason: e.NetworkReason, Kubeconfig: obs.Kubeconfig,
		Nodes: []NodeStatus{}, Components: []ComponentStatus{}, Endpoints: map[string]string{},
	}
	maps.Copy(st.Endpoints, obs.Endpoints)
	if obs.Kubeconfig != "" {
		st.Warnings = e.endingKey(time.Now())
	}
	if obs.Full != "" {
		st.Warnings = append(st.Warnings, obs.Full)
	}
	if seen.unread != nil {
		st.Warnings = append(st.Warnings, "what the cluster would say is missing here: "+seen.unread.Error())
	}
	if seen.client != nil {
		st.Components = seen.components(ctx, e.declaredNamespaces(), e.Skipped)
	}
	if e.Kind.Nodes { // somebody else's cluster may have a load balancer that is slow
		st.Services = pending(seen.services, e.Flag())
	}
	ready := ReadyNodes(seen.nodes)
	troubles := map[string]string{}
	for _, n := range seen.nodes {
		troubles[n.GetName()] = kube.NodeTrouble(&n)
	}
	for _, n := range obs.Nodes {
		state := "not ready"
		switch {
		case n.Stopped:
			state = "stopped"
		case !n.Running:
			state = "down"
		case ready[n.Name]:
			state = "ready"
		}
		st.Nodes = append(st.Nodes, NodeStatus{n.Name, n.Role, n.Zone, ready[n.Name] && n.Running, n.Address, state, troubles[n.Name]})
	}
	return st
}

// refused are the Deployments of people that get no pods. Of what belongs to a component, the component says it.
func refused(ctx context.Context, c *kube.Client) (refused []WorkloadStatus, err error) {
	deployments, err := c.List(ctx, "apps/v1", "Deployment", "", "!"+kube.LabelComponent)
	for _, d := range deployments {
		if failure := kube.StatusCondition(&d, "ReplicaFailure"); failure.True() {
			refused = append(refused, WorkloadStatus{d.GetNamespace(), d.GetName(), "refused", failure.Message})
		}
	}
	return refused, err
}

// pending are the Services that wait for a load balancer which nobody named. flag is that of the
// environment.
func pending(services []unstructured.Unstructured, flag string) (waiting []ServiceStatus) {
	for _, s := range services {
		kind, _, _ := unstructured.NestedString(s.Object, "spec", "type")
		class, _, _ := unstructured.NestedString(s.Object, "spec", "loadBalancerClass")
		addresses, _, _ := unstructured.NestedSlice(s.Object, "status", "loadBalancer", "ingress")
		if kind == "LoadBalancer" && class == "" && len(addresses) == 0 {
			waiting = append(waiting, ServiceStatus{s.GetNamespace(), s.GetName(), "pending", fmt.Sprintf(
				"no load balancer in this cluster; from the host: orrery open %s/%s%s", s.GetNamespace(), s.GetName(), flag)})
		}
	}
	return waiting
}

// ComponentStatuses are those of a running cluster, with what the last up left out of it.
func (e *Environment) ComponentStatuses(ctx context.Context, c *kube.Client) []ComponentStatus {
	skipped := e.Skipped
	if kept, err := engine.LoadState(e.StateDir); err == nil {
		skipped = kept.Skipped
	}
	return lookAt(ctx, c).components(ctx, e.declaredNamespaces(), skipped)
}

// declaredNamespaces are those of the catalogue, when there is one at hand.
func (e *Environment) declaredNamespaces() map[string]string {
	m := map[string]string{}
	if c, err := e.Location.Catalog(); err == nil {
		for name, comp := range c.Components {
			m[name] = comp.Namespace
		}
	}
	return m
}
