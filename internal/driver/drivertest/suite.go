package drivertest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/proc"
)

// Subject is what the suite needs of a driver beside its interface.
type Subject struct {
	// New makes a driver of the same environment, as another process would.
	New func() (driver.Driver, error)
	// Prepared runs after Prepare: the images that Ready needs are pushed here.
	Prepared func(ctx context.Context, o driver.Observation) error
	// Running, when not nil, looks at the running cluster: what only this driver promises.
	Running func(t *testing.T, o driver.Observation)
	// Put and Get write and read something that has to survive a stop.
	Put func(ctx context.Context, kubeconfig, key string) error
	Get func(ctx context.Context, kubeconfig, key string) error
	// Supervisor is the process that the environment lives in; nil when there is none.
	Supervisor func() (proc.Identity, error)
}

// quick is how long a call may take that finds nothing to do. Generous: machines are shared.
const quick = 20 * time.Second

// Run takes one environment through its life. The subtests build on each other.
func Run(t *testing.T, s Subject) {
	r := &run{Subject: s}
	for _, step := range []struct {
		name string
		test func(*testing.T, driver.Driver)
	}{
		{"absent", r.absent},
		{"delete what is only prepared", r.deletePrepared},
		{"ensure", r.ensure},
		{"ensure again", r.ensureAgain},
		{"kill every kind of service", r.killServices},
		{"kill a node", r.killNode},
		{"stop a node", r.stopNode},
		{"kill the supervisor", r.killSupervisor},
		{"stop and start", r.stopStart},
		{"etcd", r.etcd},
		{"logs", r.logs},
		{"delete", r.delete},
		{"delete again", r.absent},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.test(t, r.driver(t)) }) {
			break
		}
	}
	d := r.driver(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := d.Delete(ctx); err != nil {
		t.Errorf("last delete: %v", err)
	}
}

type run struct {
	Subject
	first driver.Observation // of the running environment
}

func (r *run) driver(t *testing.T) driver.Driver {
	t.Helper()
	d, err := r.New()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// must fails the test unless err is nil, and says how long the call took.
func must(t *testing.T, what string, f func() error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := f(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	took := time.Since(began)
	t.Logf("%-28s %6.2f s", what, took.Seconds())
	return took
}

func observe(t *testing.T, d driver.Driver) driver.Observation {
	t.Helper()
	o, err := d.Observe(t.Context())
	if err != nil {
		t.Fatalf("observe: %v", err)
	}
	return o
}

func wantPhase(t *testing.T, d driver.Driver, want driver.Phase) driver.Observation {
	t.Helper()
	o := observe(t, d)
	if o.Phase != want {
		t.Fatalf("phase %s, want %s", o.Phase, want)
	}
	return o
}

func wantNoLeaks(t *testing.T, d driver.Driver) {
	t.Helper()
	leaks, err := d.Audit(t.Context())
	if err != nil {
		t.Fatalf("audit: %v", err)
	}
	if len(leaks) > 0 {
		t.Errorf("left after delete:\n%s", strings.Join(leaks, "\n"))
	}
}

// absent: every method but those that make something works on nothing.
func (r *run) absent(t *testing.T, d driver.Driver) {
	wantPhase(t, d, driver.PhaseAbsent)
	must(t, "stop", func() error { return d.Stop(t.Context()) })
	must(t, "delete", func() error { return d.Delete(t.Context()) })
	wantNoLeaks(t, d)
}

func (r *run) deletePrepared(t *testing.T, d driver.Driver) {
	must(t, "prepare", func() error { return d.Prepare(t.Context()) })
	if _, ok := d.(driver.Guest); ok {
		wantPhase(t, d, driver.PhaseAbsent)
		t.Skip("somebody else made the cluster: nothing is prepared")
	}
	wantPhase(t, d, driver.PhasePartial)
	if r.Supervisor != nil {
		id, err := r.Supervisor()
		if err != nil {
			t.Fatal(err)
		}
		must(t, "kill the supervisor", func() error { return id.Signal(syscall.SIGKILL) })
	}
	other := r.driver(t)
	must(t, "delete by another", func() error { return other.Delete(t.Context()) })
	wantNoLeaks(t, other)
	wantPhase(t, d, driver.PhaseAbsent)
}

func (r *run) ensure(t *testing.T, d driver.Driver) {
	r.up(t, d)
	r.first = wantPhase(t, d, driver.PhaseRunning)
	if r.first.Kubeconfig == "" || r.first.Endpoints["api"] == "" {
		t.Errorf("no kubeconfig or API endpoint in %+v", r.first)
	}
	for _, n := range r.first.Nodes {
		if !n.Running || n.Zone == "" || n.Address == "" {
			t.Errorf("node %+v", n)
		}
	}
	must(t, "write", func() error { return r.Put(t.Context(), r.first.Kubeconfig, "first") })
	if r.Running != nil {
		r.Running(t, r.first)
	}
}

// up is everything from nothing, or from anything, to Ready.
func (r *run) up(t *testing.T, d driver.Driver) {
	t.Helper()
	must(t, "prepare", func() error { return d.Prepare(t.Context()) })
	if r.Prepared != nil {
		if err := r.Prepared(t.Context(), observe(t, d)); err != nil {
			t.Fatalf("after prepare: %v", err)
		}
	}
	must(t, "ensure", func() error { return d.Ensure(t.Context()) })
	must(t, "ready", func() error { return d.Ready(t.Context()) })
}

func (r *run) ensureAgain(t *testing.T, d driver.Driver) {
	before := observe(t, d)
	if took := must(t, "ensure", func() error { return d.Ensure(t.Context()) }); took > quick {
		t.Errorf("took %s", took)
	}
	must(t, "ready", func() error { return d.Ready(t.Context()) })
	if after := observe(t, d); !slices.Equal(pids(before), pids(after)) {
		t.Errorf("processes changed:\n%v\n%v", pids(before), pids(after))
	}
}

func pids(o driver.Observation) []string {
	var p []string
	for _, n := range o.Nodes {
		for _, s := range n.Services {
			p = append(p, fmt.Sprintf("%s/%s=%d", n.Name, s.Name, s.PID))
		}
	}
	return p
}

// await polls until f returns nil.
func await(t *testing.T, what string, limit time.Duration, f func() error) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := check.Until(ctx, check.Pause{First: 50 * time.Millisecond}, f); err != nil {
		t.Fatalf("%s: not after %s: %v", what, limit, err)
	}
	t.Logf("%-28s %6.2f s", what, time.Since(began).Seconds())
}

func (r *run) stopStart(t *testing.T, d driver.Driver) {
	must(t, "write", func() error { return r.Put(t.Context(), r.first.Kubeconfig, "second") })
	if _, ok := d.(driver.Guest); ok {
		if err := d.Stop(t.Context()); !failure.IsRefused(err) {
			t.Errorf("stop of somebody else's cluster: %v; want a refusal", err)
		}
		r.wantSame(t, d)
		return
	}
	must(t, "stop", func() error { return d.Stop(t.Context()) })
	wantPhase(t, d, driver.PhaseStopped)
	if c, err := net.Dial("tcp", strings.TrimPrefix(r.first.Endpoints["api"], "https://")); err == nil {
		c.Close()
		t.Error("the API's port still accepts connections")
	}
	began := time.Now()
	must(t, "ensure", func() error { return d.Ensure(t.Context()) })
	must(t, "ready", func() error { return d.Ready(t.Context()) })
	t.Logf("%-28s %6.2f s", "start to Ready", time.Since(began).Seconds())
	r.wantSame(t, d)
	must(t, "read", func() error { return r.Get(t.Context(), r.first.Kubeconfig, "second") })
}

// wantSame: addresses, endpoints and data outlive every process.
func (r *run) wantSame(t *testing.T, d driver.Driver) {
	t.Helper()
	o := wantPhase(t, d, driver.PhaseRunning)
	for i, n := range o.Nodes {
		if w := r.first.Nodes[i]; n.Name != w.Name || n.Address != w.Address || n.PodCIDR != w.PodCIDR {
			t.Errorf("node %+v, was %+v", n, w)
		}
	}
	for k, v := range r.first.Endpoints {
		if o.Endpoints[k] != v {
			t.Errorf("endpoint %s is %s, was %s", k, o.Endpoints[k], v)
		}
	}
	must(t, "read", func() error { return r.Get(t.Context(), o.Kubeconfig, "first") })
}

func (r *run) logs(t *testing.T, d driver.Driver) {
	s, ok := d.(driver.LogSource)
	if !ok {
		t.Skip("the driver keeps no logs")
	}
	node := r.first.Nodes[0]
	var b strings.Builder
	if err := s.Logs(t.Context(), node.Name, node.Services[0].Name, false, &b); err != nil || b.Len() == 0 {
		t.Errorf("%d bytes, %v", b.Len(), err)
	}
	if err := s.Logs(t.Context(), node.Name, "nothing", false, &b); err == nil || !strings.Contains(err.Error(), node.Services[0].Name) {
		t.Errorf("an unknown service: %v; want an error that lists those there are", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Logs(ctx, node.Name, node.Services[0].Name, true, &b); err != nil {
		t.Errorf("follow: %v", err)
	}
}

func (r *run) delete(t *testing.T, d driver.Driver) {
	must(t, "delete and audit", func() error {
		err := d.Delete(t.Context())
		wantNoLeaks(t, d)
		return err
	})
	wantPhase(t, d, driver.PhaseAbsent)
	g, ok := d.(driver.Guest)
	if !ok {
		return
	}
	// The cluster goes on, with all that is in it.
	credentials, err := g.Credentials(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, credentials, 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, "read", func() error { return r.Get(t.Context(), kubeconfig, "second") })
}
