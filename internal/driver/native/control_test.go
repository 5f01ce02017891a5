package native

import (
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/proc"
)

// A supervisor that was stopped with SIGSTOP is not waited for.
func TestSuspendedSupervisor(t *testing.T) {
	p := paths(t.TempDir())
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	id, err := proc.Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writeJSON(p.lock(), id); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", p.socket()) // takes connections, as the kernel does for a suspended process
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := id.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	d := &Driver{paths: p}
	if err := d.StartNode(t.Context(), "server1"); !errors.Is(err, errSuspended) || !strings.Contains(err.Error(), "kill -CONT") {
		t.Errorf("node start: %v", err)
	}
	if err := d.ensureSupervisor(t.Context()); !errors.Is(err, errSuspended) {
		t.Errorf("up: %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s to tell", took)
	}
}

// A supervisor that dies while it is asked is one that is not there, whatever it was asked and
// however far it came with its answer.
func TestDyingSupervisor(t *testing.T) {
	asked := map[string]func(*Driver) error{
		"status": func(d *Driver) error {
			_, err := newClient(d.paths).status(t.Context())
			return err
		},
		"node start":   func(d *Driver) error { return d.StartNode(t.Context(), "server1") },
		"keys at rest": func(d *Driver) error { return newClient(d.paths).post(t.Context(), "/v1/atrest") },
	}
	for name, ask := range asked {
		for how, answered := range map[string]string{
			"nothing":     "", // what it was asked is not even read: the connection is reset
			"status line": "HTTP/1.1 200 OK\r\n",
			"half a body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				p := paths(t.TempDir())
				supervisor := dyingSupervisor(t, p, answered)
				if err := ask(&Driver{paths: p}); !errors.Is(err, errNoSupervisor) {
					t.Errorf("%v; want that there is none", err)
				}
				<-supervisor
			})
		}
	}
}

// dyingSupervisor answers the first to come, breaks the connection and ends.
func dyingSupervisor(t *testing.T, p paths, answer string) (gone <-chan struct{}) {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := proc.Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writeJSON(p.lock(), id); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", p.socket())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			if answer != "" {
				_, _ = conn.Read(make([]byte, 1<<10))
				_, _ = io.WriteString(conn, answer)
			}
			_ = conn.Close()
		}
		_ = l.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	return done
}
