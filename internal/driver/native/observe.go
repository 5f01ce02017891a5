package native

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Observe implements [driver.Driver].
func (d *Driver) Observe(ctx context.Context) (driver.Observation, error) {
	o := driver.Observation{Phase: driver.PhaseAbsent}
	if !exists(d.paths.cluster()) {
		if cg, err := hostCgroups(); err == nil && len(cg.existing(cgroupRoots(d.cluster.Environment)...)) > 0 {
			o.Phase = driver.PhasePartial
		}
		return o, nil
	}
	c, err := loadCluster(d.paths)
	if err != nil {
		c = d.cluster // a damaged file does not hide what runs
	}
	o.Phase, o.Full = driver.PhasePartial, d.fullDisk()
	o.Endpoints = map[string]string{
		"api":      fmt.Sprintf("https://127.0.0.1:%d", c.API),
		"registry": fmt.Sprintf("127.0.0.1:%d", c.Registry),
	}
	if exists(d.paths.kubeconfig()) {
		o.Kubeconfig = d.paths.kubeconfig()
	}
	var status supervisorStatus
	_, err = supervisorIdentity(d.paths)
	if err == nil {
		status, err = newClient(d.paths).status(ctx)
	}
	supervised := err == nil
	switch {
	case errors.Is(err, errNoSupervisor):
		if exists(d.paths.stopped()) {
			o.Phase = driver.PhaseStopped
		}
	case err != nil:
		return o, err
	}
	running := map[string]machineStatus{}
	for _, m := range status.Nodes {
		running[m.Name] = m
	}
	complete := supervised && status.Cluster && status.Registry.State == "running"
	for _, n := range c.Nodes {
		m := running[n.Name]
		out := driver.Node{
			Name: n.Name, Role: n.Role, Zone: n.Zone, Rack: n.Rack, Address: n.Address.String(), PodCIDR: n.PodCIDR.String(),
			Running: m.Running, Stopped: exists(d.paths.nodeStop(n.Name)),
		}
		for _, s := range m.Services {
			out.Services = append(out.Services, s.Service)
		}
		complete = complete && (out.Running || out.Stopped)
		o.Nodes = append(o.Nodes, out)
	}
	if complete {
		o.Phase = driver.PhaseRunning
	}
	return o, nil
}

// Ready implements [driver.Driver]. A node counts once its kubelet reported after the
// node's present start: what the API remembers of an earlier life says nothing.
func (d *Driver) Ready(ctx context.Context) error {
	if err := d.ready(ctx); err != nil {
		return d.blame(ctx, err)
	}
	return d.paths.forgetEtcd(d.cluster)
}

func (d *Driver) ready(ctx context.Context) error {
	a, err := newAPI(d.paths, d.cluster.API)
	if err != nil {
		return err
	}
	defer a.close()
	c := newClient(d.paths)
	seen, most := 0, 0
	r := check.Await(ctx, check.Condition{Component: "cluster", Name: "nodes-ready", Timeout: d.options.Timeout, Interval: 100 * time.Millisecond, Probe: func(ctx context.Context) check.Result {
		status, err := c.status(ctx)
		if err != nil {
			return check.Fail(err)
		}
		nodes, err := a.nodes(ctx)
		if err != nil {
			return check.Wait("the API does not list nodes: %v", err)
		}
		ready, wanted := 0, 0
		var why error
		for _, m := range status.Nodes {
			if !m.Wanted {
				continue
			}
			wanted++
			if err := d.networkBroken(m); err != nil {
				return check.Fail(err)
			}
			if err := d.nodeReady(ctx, a, m, nodes); err != nil {
				why = err
				continue
			}
			ready++
		}
		most = max(most, ready)
		if ready != seen {
			seen = ready
			d.options.Sink.Emit(ui.Event{Time: d.now(), Type: ui.TypeProgress, Step: "nodes", Phase: "cluster", Done: float64(ready), Total: float64(wanted), Unit: "nodes"})
		}
		if why != nil {
			r := check.Wait("%d of %d nodes are Ready; %v", ready, wanted, why)
			r.Progress = fmt.Sprintf("%d registered, %d ready at most", len(nodes), most)
			return r
		}
		return check.OK("%d nodes are Ready", ready)
	}}, nil)
	if r.State != check.Succeeded {
		return fmt.Errorf("%w%s", r.Err, d.explain(ctx))
	}
	return nil
}

// nodeReady is nil when the node is Ready and has its labels, which it sets when needed.
func (d *Driver) nodeReady(ctx context.Context, a *api, m machineStatus, nodes map[string]apiNode) error {
	if !m.Running {
		return fmt.Errorf("%s does not run: %s", m.Name, m.Problem)
	}
	n, ok := nodes[m.Name]
	if !ok {
		if m.Registered { // and its object was deleted
			if err := d.node(ctx, m.Name, "start"); err != nil {
				return err
			}
		}
		return fmt.Errorf("%s has not registered", m.Name)
	}
	net := networks[d.cluster.Plugin]
	if err := a.complete(ctx, d.cluster, m.Name, n); err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type != "Ready" {
			continue
		}
		switch {
		case c.Status != "True":
			return fmt.Errorf("%s is not Ready: %s", m.Name, c.Message)
		case c.Heartbeat.Before(m.Started.Truncate(time.Second)):
			return fmt.Errorf("%s has not reported since it started", m.Name)
		}
		if err := net.ready(ctx, m.PID); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		return nil
	}
	return fmt.Errorf("%s has reported nothing", m.Name)
}

// networkBroken is an error when a service of the network plugin ends again and again for the
// same reason, so that waiting longer will not help.
func (d *Driver) networkBroken(m machineStatus) error {
	for _, s := range m.Services {
		if s.Restarts < 2 {
			continue
		}
		if why, lasting := d.failure(m.Name, s.Name); lasting {
			return fmt.Errorf("%s on %s ended %d times: %s", s.Name, m.Name, s.Restarts, why)
		}
	}
	return nil
}

// failure is why a service of the network plugin ended, as far as its log says.
func (d *Driver) failure(node, service string) (string, bool) {
	const enough = 256 << 10 // bytes, more than a start writes
	return networks[d.cluster.Plugin].failure(service, tail(d.paths.nodeLog(node, service), enough))
}
