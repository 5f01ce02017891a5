package native

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// mirror is the registry that nodes pull from. It runs in the fabric; a port of 127.0.0.1
// on the host is forwarded to it, for a person and for the image builder.
type mirror struct {
	paths   paths
	address string // in the fabric
	fabric  *fabric
	spawner *spawner
	log     *slog.Logger
	local   net.Listener

	mu       sync.Mutex
	process  *os.Process
	restarts int

	cancel   context.CancelFunc
	finished chan struct{}
}

func newMirror(p paths, c cluster, f *fabric, log *slog.Logger) (*mirror, error) {
	m := &mirror{paths: p, fabric: f, log: log, finished: make(chan struct{}), address: fmt.Sprintf("%s:%d", c.Gateway, registryPort)}
	if err := os.MkdirAll(p.join("registry"), 0o700); err != nil {
		return nil, err
	}
	if _, err := writeFile(p.join("registry.yaml"), registryConfig(p, c)); err != nil {
		return nil, err
	}
	var err error
	if m.spawner, err = newSpawner(f.ns); err != nil {
		return nil, err
	}
	if m.local, err = listenLocal(c.Registry, "ports.registry"); err != nil {
		return nil, err
	}
	var ctx context.Context
	ctx, m.cancel = context.WithCancel(context.Background())
	go m.run(ctx)
	go forward(m.local, m.address, f.ns.dial)
	return m, nil
}

func (m *mirror) run(ctx context.Context) {
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

func (m *mirror) once(ctx context.Context) error {
	log, err := os.OpenFile(m.paths.log("registry"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
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
func (m *mirror) answers(ctx context.Context) error {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return m.fabric.ns.dial(ctx, m.address)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.address+"/v2/", nil)
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

func (m *mirror) status() (pid, restarts int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil {
		pid = m.process.Pid
	}
	return pid, m.restarts
}

func (m *mirror) stop() {
	m.local.Close()
	m.cancel()
	<-m.finished
}
