package drivertest

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/proc"
)

// killServices kills one of each kind, on the last node that has it, and waits for the new one.
func (r *run) killServices(t *testing.T, d driver.Driver) {
	victims := map[string]driver.Service{}
	nodes := map[string]string{}
	processes := false
	for _, n := range observe(t, d).Nodes {
		for _, s := range n.Services {
			victims[s.Name], nodes[s.Name] = s, n.Name
			processes = processes || s.PID != 0
		}
	}
	if !processes {
		t.Skip("the driver shows no services that are processes of this machine")
	}
	for name, v := range victims {
		id, err := proc.Of(v.PID)
		if err != nil {
			t.Fatalf("%s (PID %d): %v", name, v.PID, err)
		}
		if err := id.Signal(syscall.SIGKILL); err != nil {
			t.Fatalf("kill %s: %v", name, err)
		}
	}
	for name, v := range victims {
		await(t, name+" runs again", 2*time.Minute, func() error {
			s, ok := service(observe(t, d), nodes[name], name)
			if !ok || s.PID == 0 || s.PID == v.PID || s.Restarts <= v.Restarts {
				return fmt.Errorf("%+v after %+v", s, v)
			}
			return nil
		})
	}
	must(t, "ensure", func() error { return d.Ensure(t.Context()) })
	must(t, "ready", func() error { return d.Ready(t.Context()) })
	must(t, "read", func() error { return r.Get(t.Context(), r.first.Kubeconfig, "first") })
}

// begunAnew says whether a service was started again. One without a process of this machine
// shows it by its restarts.
func begunAnew(now, was driver.Service) bool {
	if was.PID == 0 {
		return now.Restarts > was.Restarts
	}
	return now.PID != 0 && now.PID != was.PID
}

func service(o driver.Observation, node, name string) (driver.Service, bool) {
	for _, n := range o.Nodes {
		for _, s := range n.Services {
			if n.Name == node && s.Name == name {
				return s, true
			}
		}
	}
	return driver.Service{}, false
}

func (r *run) controller(t *testing.T, d driver.Driver) driver.NodeController {
	t.Helper()
	c, ok := d.(driver.NodeController)
	if !ok {
		t.Skip("the driver cannot fault single nodes")
	}
	return c
}

func (r *run) killNode(t *testing.T, d driver.Driver) {
	c := r.controller(t, d)
	for _, n := range []driver.Node{r.first.Nodes[0], r.first.Nodes[len(r.first.Nodes)-1]} {
		before := observe(t, d)
		must(t, "kill "+n.Name, func() error { return c.KillNode(t.Context(), n.Name) })
		await(t, n.Name+" runs again", 2*time.Minute, func() error {
			for _, s := range n.Services {
				was, _ := service(before, n.Name, s.Name)
				if now, ok := service(observe(t, d), n.Name, s.Name); !ok || !begunAnew(now, was) {
					return fmt.Errorf("%+v after %+v", now, was)
				}
			}
			return nil
		})
	}
	must(t, "ensure", func() error { return d.Ensure(t.Context()) })
	must(t, "ready", func() error { return d.Ready(t.Context()) })
	must(t, "read", func() error { return r.Get(t.Context(), r.first.Kubeconfig, "first") })
	if err := c.KillNode(t.Context(), "nobody"); err == nil {
		t.Error("killed a node that does not exist")
	}
}

// stopNode: a stopped node stays stopped, also over a restart of everything else.
func (r *run) stopNode(t *testing.T, d driver.Driver) {
	c := r.controller(t, d)
	last := r.first.Nodes[len(r.first.Nodes)-1]
	if last.Role != driver.RoleAgent {
		t.Skip("no agent to stop")
	}
	must(t, "stop "+last.Name, func() error { return c.StopNode(t.Context(), last.Name) })
	must(t, "stop", func() error { return d.Stop(t.Context()) })
	wantPhase(t, d, driver.PhaseStopped)
	must(t, "ensure", func() error { return d.Ensure(t.Context()) })
	must(t, "ready", func() error { return d.Ready(t.Context()) })
	o := wantPhase(t, d, driver.PhaseRunning)
	if n := o.Nodes[len(o.Nodes)-1]; n.Running || !n.Stopped {
		t.Errorf("%+v", n)
	}
	must(t, "start "+last.Name, func() error { return c.StartNode(t.Context(), last.Name) })
	must(t, "ready", func() error { return d.Ready(t.Context()) })
	if n := observe(t, d).Nodes[len(o.Nodes)-1]; !n.Running || n.Stopped {
		t.Errorf("%+v", n)
	}
}

func (r *run) killSupervisor(t *testing.T, d driver.Driver) {
	if r.Supervisor == nil {
		t.Skip("the driver has no supervisor")
	}
	id, err := r.Supervisor()
	if err != nil {
		t.Fatal(err)
	}
	before := observe(t, d)
	must(t, "kill", func() error { return id.Signal(syscall.SIGKILL) })
	await(t, "orphans end", time.Minute, func() error {
		for _, n := range before.Nodes {
			for _, s := range n.Services {
				if _, err := proc.Of(s.PID); err == nil && s.PID != 0 {
					return fmt.Errorf("%s/%s (PID %d) lives", n.Name, s.Name, s.PID)
				}
			}
		}
		return nil
	})
	wantPhase(t, d, driver.PhasePartial)
	r.up(t, d)
	r.wantSame(t, d)
}
