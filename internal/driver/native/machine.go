package native

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/beneath"
	"github.com/orrery-dev/orrery/internal/driver"
)

// machine runs one node: it starts its PID 1, starts it again when it dies, and knows
// what it reports.
type machine struct {
	node     node
	paths    paths
	cluster  cluster
	fabric   *fabric
	spawner  *spawner
	cgroups  cgroups
	layers   *layerStore
	programs *programs
	log      *slog.Logger
	down     func() // told when the node has gone
	ask      memberAPI

	mu       sync.Mutex
	cancel   context.CancelFunc // of run; nil when the node is not wanted
	finished chan struct{}      // closed when run has ended
	process  *os.Process
	started  time.Time
	// registered: since then, its object in the API was seen complete.
	registered bool
	starts     int
	services   map[string]initEvent
	problem    string          // why the last start failed
	wake       *os.File        // PID 1 is told what to do over it
	drained    chan<- []string // whoever waits for the containers' end is told of those left
}

func (m *machine) group() string { return m.cgroups.root(m.cluster.Environment) + "/" + m.node.Name }

// start wants the node to run and returns at once. Idempotent.
func (m *machine) start() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cancel != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	before, finished := m.finished, make(chan struct{})
	loss := m.paths.memberLoss(m.cluster, m.node) // looked at before other servers of a new cluster begin
	m.cancel, m.finished = cancel, finished
	go func() {
		if before != nil {
			<-before // a stop may still be at work
		}
		m.run(ctx, finished, loss)
	}()
}

// stop ends the node, gracefully within stopTime, and returns when nothing of it is left.
func (m *machine) stop() {
	m.mu.Lock()
	cancel, finished := m.cancel, m.finished
	m.cancel = nil
	m.mu.Unlock()
	if cancel != nil {
		cancel()
		<-finished
	}
}

// drain lets the node's containers end as their pods say, within grace, and returns the pods of
// those that had not. A node that does not run has none.
func (m *machine) drain(ctx context.Context, grace time.Duration) []string {
	if grace <= 0 {
		return nil
	}
	drained := make(chan []string, 1)
	m.mu.Lock()
	wake, finished := m.wake, m.finished
	m.drained = drained
	m.mu.Unlock()
	if wake == nil {
		return nil
	}
	if _, err := wake.WriteString(drainCommand(grace)); err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, grace+systemGrace+2*leastGrace)
	defer cancel()
	select {
	case left := <-drained:
		return left
	case <-finished:
	case <-ctx.Done():
		m.log.Warn("the node does not say how its containers ended", "node", m.node.Name)
	}
	return nil
}

// kill is a power loss.
func (m *machine) kill() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return fmt.Errorf("%s does not run", m.node.Name)
	}
	return m.process.Kill()
}

// run keeps the node running until ctx ends, then stops it.
func (m *machine) run(ctx context.Context, finished chan<- struct{}, loss memberLoss) {
	defer close(finished)
	pause := newBackoff()
	for {
		began := time.Now()
		err := m.once(ctx, loss)
		m.down()
		if ctx.Err() != nil {
			return
		}
		wait := pause.pause(time.Since(began))
		m.log.Warn("node ended", "node", m.node.Name, "error", err, "restart in", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		loss = m.paths.memberLoss(m.cluster, m.node)
	}
}

// once runs the node to its end.
func (m *machine) once(ctx context.Context, loss memberLoss) (err error) {
	defer func() {
		clean, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err = errors.Join(err, m.cgroups.kill(clean, m.group()), m.cgroups.remove(clean, m.group()), m.paths.noteMember(m.node))
		m.mu.Lock()
		m.process, m.services, m.wake = nil, nil, nil
		if err != nil {
			m.problem = err.Error()
		}
		m.mu.Unlock()
	}()
	// What a crash left would be counted to the new node.
	clean, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := errors.Join(m.cgroups.kill(clean, m.group()), m.cgroups.remove(clean, m.group())); err != nil {
		return err
	}
	if err := m.restoreMember(ctx, loss); err != nil {
		return err
	}
	if err := m.cgroups.create(m.group()); err != nil {
		return err
	}
	cmd, wake, status, err := m.spawn()
	if err != nil {
		return err
	}
	defer wake.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := m.connect(cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		<-ended //nolint:errcheck // it was killed
		status.Close()
		return err
	}
	m.mu.Lock()
	m.process, m.started, m.services, m.problem, m.wake = cmd.Process, time.Now(), map[string]initEvent{}, "", wake
	m.registered = false
	m.starts++
	m.mu.Unlock()
	if _, err := wake.Write([]byte("\n")); err != nil {
		m.log.Warn("wake node", "node", m.node.Name, "error", err)
	}
	up, down := context.WithCancel(ctx)
	defer down()
	go m.complete(up)
	listened := make(chan struct{})
	go func() { m.listen(status); close(listened) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err = <-ended:
		case <-time.After(stopTime + 200*time.Millisecond):
			_ = cmd.Process.Kill()
			err = <-ended
		}
	}
	status.Close()
	<-listened
	if problem := m.reported(); err != nil && problem != "" {
		err = errors.New(problem)
	}
	return err
}

// spawn starts PID 1. It waits for a byte on its standard input, which then stays open:
// its end tells the node that the supervisor has gone.
func (m *machine) spawn() (cmd *exec.Cmd, wake, status *os.File, err error) {
	if err := m.programs.check(); err != nil {
		return nil, nil, nil, err
	}
	if err := m.folders(); err != nil {
		return nil, nil, nil, err
	}
	if err := m.layers.listen(m.node.Name); err != nil {
		return nil, nil, nil, err
	}
	log, err := m.openLog()
	if err != nil {
		return nil, nil, nil, err
	}
	defer log.Close()
	stdin, wake, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	defer stdin.Close()
	status, statusWrite, err := os.Pipe()
	if err != nil {
		wake.Close()
		return nil, nil, nil, err
	}
	defer statusWrite.Close()
	cmd = exec.Command(m.paths.executable(), modeNodeInit, m.paths.nodeInit(m.node.Name))
	cmd.Args[0] = "orrery" // a short name in ps
	cmd.Dir = "/"
	// One core is plenty for PID 1, and the environment of whoever ran the CLI is none of its business.
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS=1", "GOGC=50", "GOMEMLIMIT=24MiB"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, log, log
	cmd.ExtraFiles = []*os.File{statusWrite}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Pdeathsig: syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if err := m.spawner.start(cmd); err != nil {
		wake.Close()
		status.Close()
		return nil, nil, nil, fmt.Errorf("start %s: %w", m.node.Name, err)
	}
	return cmd, wake, status, nil
}

// folders of the node on the host. What is below var and log is the node's own work, so that
// nothing is made through a link.
func (m *machine) folders() error {
	root, err := os.OpenRoot(m.paths.node(m.node.Name))
	if err != nil {
		return err
	}
	defer root.Close()
	for _, d := range []string{"var/lib", "var/log", "log", "root"} {
		if err := root.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("folders of %s: %w", m.node.Name, err)
		}
	}
	if m.node.server() {
		if err := makeAuditLog(root); err != nil {
			return fmt.Errorf("audit log of %s: %w", m.node.Name, err)
		}
	}
	return nil
}

// openLog is the log of PID 1, in the folder that the node has as /var/log/orrery.
func (m *machine) openLog() (*os.File, error) {
	at := m.paths.nodeLog(m.node.Name, "init")
	return beneath.Open(filepath.Dir(at), filepath.Base(at), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

func (m *machine) connect(pid int) error {
	if err := m.cgroups.join(m.group(), pid); err != nil {
		return err
	}
	return m.fabric.plug(m.node, pid, networks[m.cluster.Plugin].routes(m.cluster, m.node))
}

// listen takes down what PID 1 reports until the pipe ends.
func (m *machine) listen(status *os.File) {
	s := bufio.NewScanner(status)
	for s.Scan() {
		var e initEvent
		if json.Unmarshal(s.Bytes(), &e) != nil {
			continue
		}
		m.mu.Lock()
		switch {
		case e.Service != "" && m.services != nil:
			m.services[e.Service] = e
		case e.State == "failed":
			m.problem = e.Detail
		case e.State == "drained" && m.drained != nil:
			m.drained <- e.Left
			m.drained = nil
		}
		m.mu.Unlock()
		if e.Service == "kube-controller-manager" && e.State == "running" { // so the API answers
			if err := m.paths.noteMember(m.node); err != nil {
				m.log.Warn("note that etcd has data", "node", m.node.Name, "error", err)
			}
		}
		if e.State == "repaired" {
			m.log.Warn("BPF pins of the node were damaged", "node", m.node.Name, "service", e.Service, "what", e.Detail)
		}
		if e.Service != "" && (e.State == "exited" || e.State == "failed") {
			m.log.Warn("service ended", "node", m.node.Name, "service", e.Service, "how", e.Detail, "restarts", e.Restarts)
		}
	}
}

func (m *machine) reported() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.problem
}

// machineStatus is what the control socket says of a node.
type machineStatus struct {
	Name    string    `json:"name"`
	Running bool      `json:"running"`
	Wanted  bool      `json:"wanted"`
	PID     int       `json:"pid,omitempty"` // of the node's PID 1, on the host
	Started time.Time `json:"started,omitzero"`
	// Registered: since then, its object in the API was seen complete.
	Registered bool            `json:"registered,omitempty"`
	Starts     int             `json:"starts"`
	Problem    string          `json:"problem,omitempty"`
	Services   []serviceStatus `json:"services,omitempty"`
}

type serviceStatus struct {
	driver.Service
	State  string `json:"state"`
	Detail string `json:"detail,omitempty"`
}

func (m *machine) status(order []service) machineStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := machineStatus{Name: m.node.Name, Wanted: m.cancel != nil, Starts: m.starts, Problem: m.problem}
	if m.process == nil {
		return s
	}
	s.Running, s.PID, s.Started, s.Registered = true, m.process.Pid, m.started, m.registered
	host := hostPIDs(m.process.Pid)
	for _, svc := range order {
		e := m.services[svc.Name]
		st := serviceStatus{Service: driver.Service{Name: svc.Name, Restarts: e.Restarts}, State: e.State, Detail: e.Detail}
		if e.State == "running" {
			st.PID = host[e.PID]
		}
		s.Services = append(s.Services, st)
	}
	return s
}

// steady describes which processes the node has, or says why it has not all that it can have:
// a service that waits for the API does so for as long as there is no quorum.
func (m machineStatus) steady() (string, error) {
	if !m.Running {
		return "", fmt.Errorf("it does not run: %s", m.Problem)
	}
	var b strings.Builder
	fmt.Fprint(&b, m.PID)
	for _, s := range m.Services {
		switch s.State {
		case "running":
			fmt.Fprintf(&b, " %s %d", s.Name, s.Restarts)
		case "waiting":
		default:
			return "", fmt.Errorf("%s is %q: %s", s.Name, s.State, s.Detail)
		}
	}
	return b.String(), nil
}
