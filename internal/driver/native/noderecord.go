package native

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
)

// complete gives a node's object in the API what its kubelet may not: labels of its role and
// place, and its range of pod addresses where it is told that way.
func (a *api) complete(ctx context.Context, c cluster, name string, have apiNode) error {
	n, ok := c.node(name)
	if !ok {
		return fmt.Errorf("no node %q is of this environment", name)
	}
	if want := n.labels(); !holds(have.Metadata.Labels, want) {
		if err := a.label(ctx, name, want); err != nil {
			return err
		}
	}
	want := n.PodCIDR.String()
	if !networks[c.Plugin].assignsRanges() || have.Spec.PodCIDR == want {
		return nil
	}
	if have.Spec.PodCIDR != "" { // the API takes no other once there is one
		return fmt.Errorf("%s has the pod range %s, want %s: delete the Node object and start the node again, its kubelet makes it anew", name, have.Spec.PodCIDR, want)
	}
	return a.assignRange(ctx, name, want)
}

// complete waits, after each start of the node, until its object is complete: it may have been
// deleted, and kubelets make another with nothing of ours.
func (m *machine) complete(ctx context.Context) {
	a, err := newAPI(m.paths, m.cluster.API)
	if err != nil {
		m.log.Warn("labels and pod range of the node are left to the next 'orrery up'", "node", m.node.Name, "error", err)
		return
	}
	defer a.close()
	m.completeWith(ctx, a)
}

func (m *machine) completeWith(ctx context.Context, a *api) {
	m.mu.Lock()
	life := m.started
	m.mu.Unlock()
	err := check.Until(ctx, check.Pause{First: time.Second}, func() error {
		b, err := a.get(ctx, "/api/v1/nodes/"+m.node.Name)
		if err != nil {
			return err
		}
		var have apiNode
		if err := json.Unmarshal(b, &have); err != nil {
			return err
		}
		return a.complete(ctx, m.cluster, m.node.Name, have)
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil && m.started.Equal(life) {
		m.registered = true
	}
}

// register gives a node that runs its object back when somebody deleted it: a kubelet registers when
// it starts, and not again. It returns when the object is there and complete.
func (m *machine) register(ctx context.Context) error {
	a, err := newAPI(m.paths, m.cluster.API)
	if err != nil {
		return err
	}
	defer a.close()
	m.registerWith(ctx, a, func() int { return hostPIDs(m.process.Pid)[m.services["kubelet"].PID] })
	return nil
}

func (m *machine) registerWith(ctx context.Context, a *api, kubelet func() int) {
	if _, err := a.get(ctx, "/api/v1/nodes/"+m.node.Name); !isStatus(err, http.StatusNotFound) {
		return // it is there, or nobody can tell
	}
	m.mu.Lock()
	pid := 0
	if m.process != nil && m.services["kubelet"].State == "running" && m.registered {
		pid = kubelet()
	}
	m.mu.Unlock()
	if pid == 0 {
		return // it has yet to register
	}
	m.log.Warn("the Node object was deleted: the kubelet starts anew and registers", "node", m.node.Name)
	_ = syscall.Kill(pid, syscall.SIGTERM)
	m.completeWith(ctx, a)
}

// labels that a node must have.
func (n node) labels() map[string]string {
	l := map[string]string{"topology.kubernetes.io/zone": n.Zone, "rack": n.Rack}
	if n.server() {
		l["node-role.kubernetes.io/control-plane"] = ""
	}
	return l
}

func holds(have, want map[string]string) bool {
	for k, v := range want {
		if h, ok := have[k]; !ok || h != v {
			return false
		}
	}
	return true
}
