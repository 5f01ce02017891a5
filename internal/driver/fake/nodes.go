package fake

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
	"github.com/orrery-dev/orrery/internal/spec"
)

// nodes as the API is to show them.
func (d *Driver) nodes(m memory) []kubetest.Node {
	nodes := []kubetest.Node{}
	for _, n := range d.Spec.Topology() {
		nodes = append(nodes, kubetest.Node{
			Name: n.Name, Address: n.Address.String(), PodCIDR: n.PodCIDR.String(),
			Server: n.Role == spec.RoleServer, Ready: !m.Nodes[n.Name].Stopped,
			Labels: map[string]string{"topology.kubernetes.io/zone": n.Zone, "rack": n.Rack},
		})
	}
	return nodes
}

func services(role string) []string {
	if role == spec.RoleServer {
		return []string{"etcd", "kube-apiserver", "containerd", "kubelet"}
	}
	return []string{"containerd", "kubelet"}
}

// change is what befalls one node of a running environment.
func (d *Driver) change(ctx context.Context, method, name string, f func(*nodeState)) error {
	return d.do(ctx, method, func() error {
		if !slices.ContainsFunc(d.Spec.Topology(), func(n spec.Node) bool { return n.Name == name }) {
			return fmt.Errorf("there is no node %q", name)
		}
		m, made, err := d.remembered()
		if err != nil {
			return err
		}
		if !made || m.API == "" {
			return fmt.Errorf("environment %q does not run", d.Spec.Name)
		}
		if m.Nodes == nil {
			m.Nodes = map[string]nodeState{}
		}
		s := m.Nodes[name]
		f(&s)
		m.Nodes[name] = s
		if err := d.remember(m); err != nil {
			return err
		}
		_, err = d.ask(ctx, order{Nodes: d.nodes(m)})
		return err
	})
}

// StopNode implements [driver.NodeController].
func (d *Driver) StopNode(ctx context.Context, name string) error {
	return d.change(ctx, "StopNode", name, func(s *nodeState) { s.Stopped = true })
}

// StartNode implements [driver.NodeController].
func (d *Driver) StartNode(ctx context.Context, name string) error {
	return d.change(ctx, "StartNode", name, func(s *nodeState) { s.Stopped = false })
}

// KillNode implements [driver.NodeController]. The node is back at once.
func (d *Driver) KillNode(ctx context.Context, name string) error {
	return d.change(ctx, "KillNode", name, func(s *nodeState) { s.Restarts++ })
}

func (d *Driver) writeLogs() error {
	for _, n := range d.Spec.Topology() {
		dir := filepath.Join(d.path(logsDir), n.Name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		for _, service := range services(n.Role) {
			if err := os.WriteFile(filepath.Join(dir, service), fmt.Appendf(nil, "%s of %s runs\n", service, n.Name), 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// Logs implements [driver.LogSource]. Nothing is added to a log, so that following one only
// waits.
func (d *Driver) Logs(ctx context.Context, node, service string, follow bool, w io.Writer) error {
	return d.do(ctx, "Logs", func() error {
		for _, n := range d.Spec.Topology() {
			if n.Name != node {
				continue
			}
			if !slices.Contains(services(n.Role), service) {
				return fmt.Errorf("node %s has no service %q; it has %q", node, service, services(n.Role))
			}
			text, err := os.ReadFile(filepath.Join(d.path(logsDir), node, service))
			if err != nil {
				return err
			}
			if _, err := w.Write(text); err != nil {
				return err
			}
			if follow {
				<-ctx.Done()
			}
			return nil
		}
		return fmt.Errorf("there is no node %q", node)
	})
}

// Flows implements [driver.FlowSource]: there are none.
func (d *Driver) Flows(context.Context) (string, []driver.FlowServer, error) {
	return "", nil, fmt.Errorf("%w by the fake driver", driver.ErrNoFlows)
}
