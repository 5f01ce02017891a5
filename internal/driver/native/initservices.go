package native

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
)

// backoff is the pause before a restart: it doubles from first to most, and is first again
// after a run of at least stable.
type backoff struct {
	first, most, stable time.Duration
	next                time.Duration
}

// pause returns the wait after a run that took ran.
func (b *backoff) pause(ran time.Duration) time.Duration {
	if b.next == 0 || ran >= b.stable {
		b.next = b.first
	}
	p := b.next
	b.next = min(2*b.next, b.most)
	return p
}

func newBackoff() *backoff {
	return &backoff{first: 200 * time.Millisecond, most: 5 * time.Second, stable: 20 * time.Second}
}

// serviceSet supervises the services inside a node. It is PID 1's, so it uses wait4 on
// everybody and not os/exec, which would fight over the same children.
type serviceSet struct {
	services    []service
	environment []string

	report sync.Mutex
	status *json.Encoder

	mu       sync.Mutex
	running  map[int]chan syscall.WaitStatus // by PID
	byName   map[string]int                  // PID by service
	held     map[string]bool                 // services that run no more
	waits    map[string]*wait                // by user and target
	stopping context.Context
	halt     context.CancelFunc
}

func newServiceSet(services []service, environment []string, status io.Writer) *serviceSet {
	s := &serviceSet{services: services, environment: environment, status: json.NewEncoder(status),
		running: map[int]chan syscall.WaitStatus{}, byName: map[string]int{}, held: map[string]bool{}, waits: map[string]*wait{}}
	s.stopping, s.halt = context.WithCancel(context.Background())
	return s
}

func (s *serviceSet) tell(e initEvent) {
	s.report.Lock()
	defer s.report.Unlock()
	_ = s.status.Encode(e)
}

func (s *serviceSet) start() {
	s.tell(initEvent{State: "up"})
	for _, svc := range s.services {
		go s.supervise(svc)
	}
}

// supervise keeps one service running.
func (s *serviceSet) supervise(svc service) {
	pause := newBackoff()
	for restarts := 0; ; restarts++ {
		if svc.Pins != "" {
			if missing, err := repairPins(svc.Pins); err != nil || len(missing) > 0 {
				s.tell(initEvent{Service: svc.Name, State: "repaired", Restarts: restarts, Detail: fmt.Sprintf("missing %v, so all pins were removed; %v", missing, err)})
			}
		}
		if svc.Wait != "" {
			s.tell(initEvent{Service: svc.Name, State: "waiting", Restarts: restarts, Detail: svc.Wait})
			if err := s.await(svc.Wait, svc.WaitAs); err != nil {
				if s.stopping.Err() != nil {
					return
				}
				s.tell(initEvent{Service: svc.Name, State: "failed", Restarts: restarts, Detail: "wait for " + svc.Wait + ": " + err.Error()})
				if s.rest(pause.pause(0)) != nil {
					return
				}
				continue
			}
		}
		s.awaitFile(svc, restarts)
		began := time.Now()
		pid, ended, err := s.spawn(svc, svc.Name)
		if err != nil {
			if s.stopping.Err() != nil || errors.Is(err, errHeld) {
				return
			}
			s.tell(initEvent{Service: svc.Name, State: "failed", Restarts: restarts, Detail: err.Error()})
		} else {
			s.tell(initEvent{Service: svc.Name, State: "running", PID: pid, Restarts: restarts})
			ws := <-ended
			s.tell(initEvent{Service: svc.Name, State: "exited", Restarts: restarts, Detail: describe(ws)})
		}
		if s.rest(pause.pause(time.Since(began))) != nil {
			return
		}
	}
}

// rest waits before the next try; an error says that there is none.
func (s *serviceSet) rest(d time.Duration) error {
	select {
	case <-s.stopping.Done():
		return s.stopping.Err()
	case <-time.After(d):
		return nil
	}
}

var errHeld = errors.New("the service was ended for good")

// spawn starts a process that is known by a name.
func (s *serviceSet) spawn(svc service, as string) (int, <-chan syscall.WaitStatus, error) {
	if err := os.MkdirAll(serviceLogDir, 0o755); err != nil {
		return 0, nil, err
	}
	log, err := os.OpenFile(filepath.Join(serviceLogDir, svc.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, nil, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	// Held over the fork, so that the reaper finds the PID of a child that ends at once.
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stopping.Err(); err != nil {
		return 0, nil, err
	}
	if s.held[as] {
		return 0, nil, errHeld
	}
	pid, err := syscall.ForkExec(svc.Args[0], append([]string{filepath.Base(svc.Args[0])}, svc.Args[1:]...), &syscall.ProcAttr{
		// Of two values of a variable, programs take the first.
		Env: append(append([]string(nil), svc.Env...), s.environment...), Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", svc.Args[0], err)
	}
	ended := make(chan syscall.WaitStatus, 1)
	s.running[pid] = ended
	s.byName[as] = pid
	return pid, ended, nil
}

const serviceLogDir = "/var/log/orrery"

// reap waits for every child and every orphan of the node.
func (s *serviceSet) reap() {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		if err != nil { // no child at this moment
			select {
			case <-s.stopping.Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
			continue
		}
		s.mu.Lock()
		ended := s.running[pid]
		delete(s.running, pid)
		for name, p := range s.byName {
			if p == pid {
				delete(s.byName, name)
			}
		}
		s.mu.Unlock()
		if ended != nil {
			ended <- ws
		}
	}
}

// stop ends what runs in two waves within limit: first everything, containers included,
// then what the others write to. Whoever is left dies with PID 1.
func (s *serviceSet) stop(limit time.Duration) {
	s.halt()
	deadline := time.Now().Add(limit)
	last := map[string]bool{}
	for _, svc := range s.services {
		last[svc.Name] = svc.Last
	}
	s.mu.Lock()
	spared := map[int]bool{os.Getpid(): true}
	for name, pid := range s.byName {
		spared[pid] = last[name]
	}
	s.mu.Unlock()
	for _, pid := range allPIDs() {
		if !spared[pid] && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
	}
	s.drain(deadline.Add(-limit/3), func(name string) bool { return !last[name] })
	s.mu.Lock()
	for name, pid := range s.byName {
		if last[name] {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
	}
	s.mu.Unlock()
	s.drain(deadline, func(string) bool { return true })
}

// drain returns when no service that which picks is running, or at the deadline.
func (s *serviceSet) drain(deadline time.Time, which func(string) bool) {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	_ = check.Until(ctx, check.Pause{First: 5 * time.Millisecond}, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for name, pid := range s.byName {
			if which(name) && !zombie(pid) {
				return errors.New(name)
			}
		}
		return nil
	})
}

func describe(ws syscall.WaitStatus) string {
	if ws.Signaled() {
		return "signal " + ws.Signal().String()
	}
	return fmt.Sprintf("exit code %d", ws.ExitStatus())
}

// await returns nil once target answers, see service.Wait. Services that wait for the
// same target share one look at it.
func (s *serviceSet) await(target, as string) error {
	s.mu.Lock()
	key := as + " " + target
	w := s.waits[key]
	if w == nil {
		w = &wait{done: make(chan struct{})}
		s.waits[key] = w
		go func() {
			w.err = awaitTarget(s.stopping, target, as)
			s.mu.Lock()
			delete(s.waits, key) // the next one looks anew
			s.mu.Unlock()
			close(w.done)
		}()
	}
	s.mu.Unlock()
	<-w.done
	return w.err
}

// wait is one target that is waited for.
type wait struct {
	done chan struct{}
	err  error
}

// afterLimit bounds what a service that started before waits for others: who removed the Node by
// hand has a network plugin that waits for the kubelet.
const afterLimit = time.Minute

// awaitFile returns when nothing holds the service back any more, see service.After.
func (s *serviceSet) awaitFile(svc service, restarts int) {
	if svc.After == "" || emptyFolder(svc.AfterIf) || !emptyFolder(svc.After) {
		return
	}
	s.tell(initEvent{Service: svc.Name, State: "waiting", Restarts: restarts, Detail: "a file in " + svc.After})
	ctx, cancel := context.WithTimeout(s.stopping, afterLimit)
	defer cancel()
	_ = check.Until(ctx, check.Pause{First: 50 * time.Millisecond}, func() error {
		if emptyFolder(svc.After) {
			return fmt.Errorf("%s is empty", svc.After)
		}
		return nil
	})
}

// emptyFolder is true of one that does not exist, too.
func emptyFolder(folder string) bool {
	entries, err := os.ReadDir(folder)
	return err != nil || len(entries) == 0
}

func awaitTarget(ctx context.Context, target, as string) error {
	if !strings.HasPrefix(target, "https:") {
		return check.Until(ctx, check.Pause{First: 20 * time.Millisecond}, func() error {
			c, err := net.Dial("unix", strings.TrimPrefix(target, "unix:"))
			if err != nil {
				return err
			}
			return c.Close()
		})
	}
	pem, err := os.ReadFile(nodePKI + "ca.crt")
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	secure := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if as != "" {
		pair, err := tls.LoadX509KeyPair(nodePKI+as+".crt", nodePKI+as+".key")
		if err != nil {
			return err
		}
		secure.Certificates = []tls.Certificate{pair}
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: secure}}
	defer client.CloseIdleConnections()
	return check.Until(ctx, check.Pause{First: 100 * time.Millisecond}, func() error {
		r, err := client.Get(target)
		if err != nil {
			return err
		}
		return wellAnswered(r)
	})
}

// allPIDs of this PID namespace.
func allPIDs() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
