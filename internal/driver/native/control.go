package native

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/mirror/store"
	"github.com/orrery-dev/orrery/internal/proc"
	"github.com/orrery-dev/orrery/internal/unixhttp"
)

// supervisorStatus is the answer to GET /v1/status.
type supervisorStatus struct {
	Identity proc.Identity   `json:"identity"`
	Cluster  bool            `json:"cluster"` // nodes were asked for
	Backends []string        `json:"backends,omitempty"`
	Registry serviceStatus   `json:"registry"`
	Nodes    []machineStatus `json:"nodes,omitempty"`
}

// listen opens the control socket. Beside its mode, every peer's user is checked.
func (s *supervisor) listen() (*http.Server, error) {
	if err := os.Remove(s.paths.socket()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", s.paths.socket())
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(s.paths.socket(), 0o600); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		reply(w, s.status(r.Context()), nil)
	})
	mux.HandleFunc("POST /v1/start", func(w http.ResponseWriter, r *http.Request) {
		reply(w, nil, s.startCluster())
	})
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, r *http.Request) {
		var left []string
		s.end.Do(func() { left = s.stop(r.Context(), graceOf(r)); close(s.quit) })
		reply(w, stopAnswer{left}, nil)
	})
	mux.HandleFunc("POST /v1/nodes/{name}/{verb}", func(w http.ResponseWriter, r *http.Request) {
		left, err := s.nodeVerb(r.Context(), r.PathValue("name"), r.PathValue("verb"), graceOf(r))
		reply(w, stopAnswer{left}, err)
	})
	mux.HandleFunc("POST "+etcdTunnel+"{name}/{path...}", s.tunnelEtcd)
	mux.HandleFunc("GET "+apiTunnel+"{name}/metrics", s.tunnelMetrics)
	mux.HandleFunc("POST /v1/mirror/prune", func(w http.ResponseWriter, r *http.Request) {
		var ask pruneRequest
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMessage)).Decode(&ask); err != nil {
			reply(w, nil, fmt.Errorf("read what is in use: %w", err))
			return
		}
		gone, err := s.mirror.prune(r.Context(), ask)
		reply(w, gone, err)
	})
	mux.HandleFunc("POST /v1/mirror/mend", func(w http.ResponseWriter, r *http.Request) {
		var digests []string
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMessage)).Decode(&digests); err != nil {
			reply(w, nil, fmt.Errorf("read what may be damaged: %w", err))
			return
		}
		removed, err := s.mirror.mend(r.Context(), digests)
		reply(w, removed, err)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(peerListener{l, os.Geteuid()}) }()
	return server, nil
}

// maxMessage bounds what is asked and answered, in bytes.
const maxMessage = 32 << 20

// pruneRequest has the digests that are in use. Without them nothing may be pruned.
type pruneRequest struct {
	InUse  []string `json:"inUse"`
	DryRun bool     `json:"dryRun"`
}

// stopAnswer is the answer to a stop.
type stopAnswer struct {
	Left []string `json:"left,omitempty"` // pods that had not ended in time
}

// graceOf is for how long a stop waits for pods at most.
func graceOf(r *http.Request) time.Duration {
	d, err := time.ParseDuration(r.URL.Query().Get("grace"))
	if err != nil {
		return 0
	}
	return d
}

func reply(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusConflict)
		v = map[string]string{"error": err.Error()}
	}
	_ = json.NewEncoder(w).Encode(v)
}

func (s *supervisor) status(ctx context.Context) supervisorStatus {
	st := supervisorStatus{Identity: s.id}
	st.Registry.Name = "registry"
	st.Registry.PID, st.Registry.Restarts = s.mirror.status()
	st.Registry.State = "running"
	if err := s.mirror.answers(ctx); err != nil {
		st.Registry.State, st.Registry.Detail = "waiting", err.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.balancer != nil {
		st.Cluster, st.Backends = true, s.balancer.ready()
	}
	for _, n := range s.cluster.Nodes {
		if m := s.machines[n.Name]; m != nil {
			st.Nodes = append(st.Nodes, m.status(s.order[n.Name]))
		}
	}
	return st
}

// peerListener drops connections of other users than uid and root (SO_PEERCRED, unix(7)).
type peerListener struct {
	net.Listener
	uid int
}

func (l peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(c); err == nil && (uid == l.uid || uid == 0) {
			return c, nil
		}
		c.Close()
	}
}

func peerUID(c net.Conn) (int, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return -1, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return -1, err
	}
	uid, serr := -1, error(nil)
	err = raw.Control(func(fd uintptr) {
		cred, e := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if serr = e; e == nil {
			uid = int(cred.Uid)
		}
	})
	return uid, errors.Join(err, serr)
}

// errNoSupervisor says that no supervisor of the environment runs.
var errNoSupervisor = errors.New("no supervisor runs")

// supervisorIdentity tells who supervises the environment; errNoSupervisor when nobody does.
// A supervisor writes itself into the lock file once it holds the lock, and PID, start time
// and boot are not used twice.
func supervisorIdentity(p paths) (proc.Identity, error) {
	var id proc.Identity
	b, err := os.ReadFile(p.lock())
	if errors.Is(err, fs.ErrNotExist) {
		return id, errNoSupervisor
	}
	if err != nil {
		return id, err
	}
	if json.Unmarshal(b, &id) != nil || !id.Alive() {
		return id, errNoSupervisor
	}
	return id, nil
}

// errSuspended says that the supervisor is there and does nothing.
var errSuspended = errors.New("the supervisor is suspended (SIGSTOP, or a debugger)")

// suspension is how often somebody who waits for the supervisor looks whether it may run.
const suspension = 500 * time.Millisecond

// client talks to the supervisor.
type client struct {
	http  *http.Client
	paths paths
}

func newClient(p paths) *client {
	transport := unixhttp.Transport("unix", p.socket())
	transport.DisableKeepAlives = true
	return &client{paths: p, http: &http.Client{Transport: transport}}
}

func (c *client) status(ctx context.Context) (supervisorStatus, error) {
	var s supervisorStatus
	return s, c.do(ctx, http.MethodGet, "/v1/status", nil, &s)
}

func (c *client) post(ctx context.Context, path string) error {
	return c.do(ctx, http.MethodPost, path, nil, nil)
}

// stop asks for a stop in which pods have grace to end, and returns those that had not.
func (c *client) stop(ctx context.Context, path string, grace time.Duration) ([]string, error) {
	var a stopAnswer
	err := c.do(ctx, http.MethodPost, path+"?grace="+grace.String(), nil, &a)
	return a.Left, err
}

func (c *client) prune(ctx context.Context, ask pruneRequest) (gone store.Pruned, err error) {
	return gone, c.do(ctx, http.MethodPost, "/v1/mirror/prune", ask, &gone)
}

func (c *client) mend(ctx context.Context, digests []string) (removed []string, err error) {
	return removed, c.do(ctx, http.MethodPost, "/v1/mirror/mend", digests, &removed)
}

// do sends body, unless nil, and decodes the answer into into, unless nil. It waits for as long as
// the supervisor works on the answer: a stop may take its time, one that is suspended never answers.
func (c *client) do(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go c.watch(ctx, cancel)
	err := c.exchange(ctx, method, path, body, into)
	if errors.Is(err, errBroken) && !errors.Is(err, fs.ErrPermission) && ctx.Err() == nil {
		err = c.unlessDying(ctx, method, path, body, into, err)
	}
	if cause := context.Cause(ctx); errors.Is(cause, errSuspended) {
		return cause
	}
	return err
}

// errBroken is a supervisor that could not be reached, or did not answer to the end.
var errBroken = errors.New("talk to the supervisor")

// dying is how long a supervisor that was killed may take until it is gone.
const dying = 5 * time.Second

// unlessDying is errNoSupervisor when the supervisor ends: one that is killed breaks its connections
// before it is gone. One that lives was only starting: what changes nothing is asked again.
func (c *client) unlessDying(ctx context.Context, method, path string, body, into any, broken error) error {
	ctx, cancel := context.WithTimeout(ctx, dying)
	defer cancel()
	answer := broken
	_ = check.Until(ctx, check.Pause{First: 10 * time.Millisecond}, func() error {
		if _, err := supervisorIdentity(c.paths); errors.Is(err, errNoSupervisor) {
			answer = fmt.Errorf("%w: it ended while it was asked", err)
			return nil
		}
		if method != http.MethodGet {
			return broken
		}
		if err := c.exchange(ctx, method, path, body, into); !errors.Is(err, errBroken) {
			answer = err
			return nil
		}
		return broken
	})
	return answer
}

// watch cancels once the supervisor is suspended.
func (c *client) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	_ = check.Until(ctx, check.Pause{First: suspension}, func() error {
		id, err := supervisorIdentity(c.paths)
		if err == nil && id.Suspended() {
			cancel(fmt.Errorf("%w: kill -CONT %d lets it go on", errSuspended, id.PID))
			return nil
		}
		return errors.New("it may run")
	})
}

func (c *client) exchange(ctx context.Context, method, path string, body, into any) error {
	req, err := unixhttp.Request(ctx, method, "http://supervisor"+path, body)
	if err != nil {
		return err
	}
	r, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, maxMessage))
	if err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	if r.StatusCode != http.StatusOK {
		var e struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(b, &e) == nil && e.Error != "" {
			return errors.New(e.Error)
		}
		return fmt.Errorf("supervisor: %s: %s", r.Status, bytes.TrimSpace(b))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(b, into)
}
