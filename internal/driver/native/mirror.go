package native

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/mirror/store"
)

// registry is what nodes pull from, the mirror. It listens on a socket in the state directory,
// behind two gates: in the fabric it is only read; on a port of 127.0.0.1 of the host, for a
// person and for the image builder, who knows the password may write.
type registry struct {
	paths    paths
	spawner  *spawner
	programs *programs
	log      *slog.Logger
	gates    []*http.Server
	writes   mirror.Writes

	mu       sync.Mutex
	process  *os.Process
	restarts int

	cancel   context.CancelFunc
	finished chan struct{}
}

func newRegistry(p paths, c cluster, f *fabric, known *programs, log *slog.Logger) (*registry, error) {
	m := &registry{paths: p, programs: known, log: log, finished: make(chan struct{})}
	if err := os.MkdirAll(p.join("registry"), 0o700); err != nil {
		return nil, err
	}
	if _, err := writeFile(p.join("registry.yaml"), registryConfig(p)); err != nil {
		return nil, err
	}
	var err error
	if m.spawner, err = newSpawner(f.ns); err != nil {
		return nil, err
	}
	local, err := listenLocal(c.Registry, "ports.registry")
	if err != nil {
		return nil, err
	}
	inside, err := f.ns.listen(fmt.Sprintf("%s:%d", c.Gateway, registryPort))
	if err != nil {
		local.Close()
		return nil, fmt.Errorf("listen for nodes that pull: %w", err)
	}
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	go m.run(ctx)
	m.serve(mirror.Gate{Hosts: []string{c.Gateway.String()}, Dial: m.dial, Log: log}, inside)
	m.serve(mirror.Gate{
		Hosts: []string{"127.0.0.1", "localhost"}, Dial: m.dial, Log: log,
		Password: func() (string, error) { return mirror.ReadPassword(p.mirrorPassword()) }, Writes: &m.writes,
	}, local)
	return m, nil
}

func (m *registry) serve(g mirror.Gate, l net.Listener) {
	server := g.Server()
	m.gates = append(m.gates, server)
	go func() { _ = server.Serve(l) }()
}

func (m *registry) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", m.paths.registrySocket())
}

func (m *registry) run(ctx context.Context) {
	defer close(m.finished)
	pause := newBackoff()
	for {
		began := time.Now()
		err := m.once(ctx)
		if ctx.Err() != nil {
			return
		}
		m.mu.Lock()
		m.restarts++
		m.mu.Unlock()
		m.log.Warn("registry ended", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause.pause(time.Since(began))):
		}
	}
}

func (m *registry) once(ctx context.Context) error {
	log, err := os.OpenFile(m.paths.log("registry"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := m.programs.check("bin/registry"); err != nil {
		return err
	}
	if err := os.Remove(m.paths.registrySocket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cmd := exec.Command(m.paths.join("dist", "bin", "registry"), "serve", m.paths.join("registry.yaml"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	// The registry would look for a trace collector otherwise.
	cmd.Env = []string{"OTEL_TRACES_EXPORTER=none", "GOGC=50"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	if err := m.spawner.start(cmd); err != nil {
		return err
	}
	m.mu.Lock()
	m.process = cmd.Process
	m.mu.Unlock()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		m.mu.Lock()
		m.process = nil
		m.mu.Unlock()
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		return err
	case <-time.After(700 * time.Millisecond):
		_ = cmd.Process.Kill()
		return <-ended
	}
}

// answers is nil when the registry serves.
func (m *registry) answers(ctx context.Context) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return m.dial(ctx) },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://registry/v2/", nil)
	if err != nil {
		return err
	}
	r, err := client.Do(req)
	if err != nil {
		return err
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /v2/: %s", r.Status)
	}
	return nil
}

// How long no push may be in the middle before the folder is cleaned up, and for how long that is
// waited for.
const (
	quietBeforePrune = 2 * time.Second
	patienceForQuiet = time.Minute
)

// prune frees what nothing needs while the registry runs, which keeps nothing of its folder in
// memory. Pushes wait meanwhile.
func (m *registry) prune(ctx context.Context, ask pruneRequest) (store.Pruned, error) {
	s, err := store.Open(m.paths.join("registry"))
	if err != nil {
		return store.Pruned{}, err
	}
	defer s.Close()
	if !ask.DryRun {
		quiet, cancel := context.WithTimeout(ctx, patienceForQuiet)
		defer cancel()
		release, err := m.writes.Hold(quiet, quietBeforePrune)
		if err != nil {
			return store.Pruned{}, fmt.Errorf("nothing was removed: %w; do it again when that has ended", err)
		}
		defer release()
	}
	return s.Prune(ctx, ask.InUse, ask.DryRun)
}

// mend needs no pushes to wait: a blob that somebody is about to name is whole.
func (m *registry) mend(ctx context.Context, digests []string) ([]string, error) {
	s, err := store.Open(m.paths.join("registry"))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Mend(ctx, digests)
}

func (m *registry) status() (pid, restarts int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil {
		pid = m.process.Pid
	}
	return pid, m.restarts
}

func (m *registry) stop() {
	for _, g := range m.gates {
		g.Close()
	}
	m.cancel()
	<-m.finished
}
