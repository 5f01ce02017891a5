package native

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/proc"
	"github.com/orrery-dev/orrery/internal/spec"
)

// A supervisor that cannot start says why to the person, and leaves nothing.
func TestPortInUse(t *testing.T) {
	dist := testDistribution(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	e := spec.Named("orrery-port")
	e.Network.Plugin = spec.PluginPTP
	e.Ports = spec.Ports{API: freePort(t), Registry: l.Addr().(*net.TCPAddr).Port}
	d, err := New(Options{Spec: e, StateDir: "/var/lib/orrery/" + e.Name, Executable: os.Args[0], Journal: &memoryJournal{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Delete(context.Background()); err != nil {
			t.Error(err)
		}
		if leaks, err := d.Audit(context.Background()); err != nil || len(leaks) > 0 {
			t.Errorf("%v, %v", leaks, err)
		}
	})
	if err := os.MkdirAll(string(d.paths), 0o700); err != nil {
		t.Fatal(err)
	}
	link(t, dist, string(d.paths))
	if err := d.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "ports.registry") {
		t.Errorf("got %v", err)
	}
	if _, err := supervisorIdentity(d.paths); !errors.Is(err, errNoSupervisor) {
		t.Errorf("a supervisor runs: %v", err)
	}
}

func TestSupervisorIdentity(t *testing.T) {
	p := paths(t.TempDir())
	if _, err := supervisorIdentity(p); !errors.Is(err, errNoSupervisor) {
		t.Errorf("no lock: %v", err)
	}
	self, err := proc.Self()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		content any
		found   bool
	}{
		"ourselves":            {self, true},
		"another boot":         {proc.Identity{PID: self.PID, Start: self.Start, Boot: "x"}, false},
		"the PID of another":   {proc.Identity{PID: self.PID, Start: self.Start - 1, Boot: self.Boot}, false},
		"nothing that we know": {[]int{1}, false},
	} {
		if _, err := writeJSON(p.lock(), tc.content); err != nil {
			t.Fatal(err)
		}
		if id, err := supervisorIdentity(p); (err == nil) != tc.found || (tc.found && id != self) {
			t.Errorf("%s: %v, %v", name, id, err)
		}
	}
	if _, _, err := takeLock(p); err != nil {
		t.Fatal(err)
	}
	if _, _, err := takeLock(p); !errors.Is(err, errLocked) {
		t.Errorf("taken twice: %v", err)
	}
}

// A state directory that another version or a crash left in disorder can be looked at and removed.
func TestDamagedState(t *testing.T) {
	e := spec.Named("unit-damaged")
	e.Network.Plugin = spec.PluginPTP
	e.Ports = spec.Ports{API: 1234, Registry: 1235}
	dir := t.TempDir() + "/state"
	d, err := New(Options{Spec: e, StateDir: dir, Journal: &memoryJournal{}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{d.paths.cluster(), d.paths.lock(), d.paths.socket()} {
		if _, err := writeFile(f, []byte("rubbish")); err != nil {
			t.Fatal(err)
		}
	}
	if o, err := d.Observe(t.Context()); err != nil || o.Phase != driver.PhasePartial || len(o.Nodes) != 5 {
		t.Errorf("%+v, %v", o, err)
	}
	if leaks, err := d.Audit(t.Context()); err != nil || len(leaks) != 1 || !strings.Contains(leaks[0], dir) {
		t.Errorf("audit: %v, %v", leaks, err)
	}
	if err := d.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if leaks, err := d.Audit(t.Context()); err != nil || len(leaks) != 0 {
		t.Errorf("audit after delete: %v, %v", leaks, err)
	}
}
