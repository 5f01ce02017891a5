package native

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/proc"
)

// errLocked says that another supervisor holds the environment.
var errLocked = errors.New("another supervisor runs this environment")

// supervisor is the process that an environment lives in. What it makes (namespaces,
// links, children) ends with it, whatever it dies of; the rest is files and control groups.
type supervisor struct {
	id       proc.Identity
	paths    paths
	cluster  cluster
	cgroups  cgroups
	log      *slog.Logger
	fabric   *fabric
	mirror   *registry
	spawner  *spawner
	layers   *layerStore
	programs *programs
	local    net.Listener // of the API on 127.0.0.1

	mu       sync.Mutex
	balancer *balancer // nil until the cluster is started
	machines map[string]*machine
	order    map[string][]service // services of each node, for a stable display

	quit chan struct{} // closed when a stop was asked for over the socket and done
	end  sync.Once
}

// supervise runs the supervisor of the environment in dir until it is told to stop.
func supervise(dir string) error {
	p := paths(dir)
	lock, id, err := takeLock(p)
	if err != nil {
		return err
	}
	defer lock.Close()
	c, err := loadCluster(p)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cg, err := hostCgroups()
	if err != nil {
		return err
	}
	if err := clearLeftovers(cg, c.Environment); err != nil {
		return err
	}
	if cg, err = settle(cg, c.Environment, log); err != nil {
		return err
	}
	s := &supervisor{id: id, paths: p, cluster: c, cgroups: cg, log: log, quit: make(chan struct{}),
		machines: map[string]*machine{}, order: map[string][]service{}}
	if err := s.open(); err != nil {
		return err
	}
	log.Info("supervisor runs", "environment", c.Environment, "pid", id.PID)
	server, err := s.listen()
	if err != nil {
		return err
	}
	defer server.Close()
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM, syscall.SIGINT)
	rotate := time.NewTicker(10 * time.Second)
	defer rotate.Stop()
	debug.FreeOSMemory()
	for {
		select {
		case <-terminate:
			s.stop(context.Background(), 0)
			return nil
		case <-s.quit:
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return server.Shutdown(ctx) // lets the answer to the request for a stop out
		case <-rotate.C:
			rotateLogs(p, s.log)
		}
	}
}

// takeLock makes this process the supervisor for as long as it lives and writes down who it is.
func takeLock(p paths) (*os.File, proc.Identity, error) {
	id, err := proc.Self()
	if err != nil {
		return nil, id, err
	}
	f, err := os.OpenFile(p.lock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, id, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, id, fmt.Errorf("%s: %w", p.lock(), errLocked)
	}
	b, err := json.Marshal(id)
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	return f, id, err
}

// clearLeftovers ends what a supervisor that was killed may have left for the moment that
// the kernel takes to deliver its children's deaths.
func clearLeftovers(cg cgroups, env string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return hostScopes().clear(ctx, cg, env)
}

// settle notes how the host was and moves this process into the environment's control group. It
// returns the groups with the scope that they are in, if any. The scope comes first: controllers
// that systemd gives for it are systemd's to take back.
func settle(cg cgroups, env string, log *slog.Logger) (cgroups, error) {
	cg.Scope = hostScopes().enter(context.Background(), cg, env, log)
	root := cgroupRoot(env)
	if err := cg.noteBefore(root, appArmorFolder); err != nil {
		return cg, err
	}
	if err := os.Mkdir(filepath.Join(cg.mounts()[0], root), 0o755); err != nil { // others see that this one is there
		return cg, fmt.Errorf("the environment's control group: %w", err)
	}
	own := cg.root(env) + "/supervisor"
	if err := cg.create(own); err != nil {
		return cg, err
	}
	if err := cg.bound(cg.root(env), readBounds()); err != nil {
		log.Warn("the environment is not bounded as a whole: it could take all memory or process numbers of the machine", "error", err)
	}
	return cg, cg.join(own, os.Getpid())
}

// open makes the fabric and starts the mirror.
func (s *supervisor) open() error {
	var err error
	if s.spawner, err = newSpawner(nil); err != nil {
		return err
	}
	s.programs = &programs{paths: s.paths}
	if s.layers, err = newLayerStore(s.paths, s.log); err != nil {
		return err
	}
	if err := s.layers.recover(context.Background()); err != nil {
		return err
	}
	if s.fabric, err = newFabric(s.cluster); err != nil {
		return err
	}
	if s.cluster.Egress {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.fabric.connectOut(ctx); err != nil {
			return err
		}
	}
	if s.local, err = listenLocal(s.cluster.API, "ports.api"); err != nil {
		return err
	}
	s.mirror, err = newRegistry(s.paths, s.cluster, s.fabric, s.programs, s.log)
	return err
}

// startCluster starts every node that a person has not stopped. Idempotent.
func (s *supervisor) startCluster() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.balancer == nil {
		if err := s.startBalancer(); err != nil {
			return err
		}
	}
	for _, n := range s.cluster.Nodes {
		if !exists(s.paths.nodeStop(n.Name)) {
			s.machine(n).start()
		} else {
			s.answerFor(n)
		}
	}
	if err := os.Remove(s.paths.stopped()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// answerFor lets the fabric say that a stopped node is not there.
func (s *supervisor) answerFor(n node) {
	// With any plugin: the answer has to find its way back to pods.
	if err := s.fabric.standIn(n, ptp{}.routes(s.cluster, n)); err != nil {
		s.log.Warn("whoever asks for the stopped node waits until it gives up", "node", n.Name, "error", err)
	}
}

func (s *supervisor) startBalancer() error {
	pem, err := os.ReadFile(s.paths.pki("ca.crt"))
	if err != nil {
		return fmt.Errorf("the cluster's authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("no certificate in %s", s.paths.pki("ca.crt"))
	}
	var backends []string
	for _, n := range s.cluster.servers() {
		backends = append(backends, backendOf(n))
	}
	inside, err := s.fabric.ns.listen(fmt.Sprintf("%s:%d", s.cluster.Gateway, apiPort))
	if err != nil {
		return fmt.Errorf("listen for nodes: %w", err)
	}
	s.balancer = newBalancer(backends, s.fabric.ns.dial, s.log)
	go s.balancer.run(context.Background(), roots)
	go s.balancer.serve(inside)
	go s.balancer.serve(s.local)
	return nil
}

func backendOf(n node) string { return fmt.Sprintf("%s:%d", n.Address, apiPort) }

// machine returns the machine of n; s.mu is held.
func (s *supervisor) machine(n node) *machine {
	m := s.machines[n.Name]
	if m == nil {
		m = &machine{node: n, paths: s.paths, cluster: s.cluster, fabric: s.fabric, spawner: s.spawner, cgroups: s.cgroups, layers: s.layers,
			programs: s.programs, log: s.log,
			ask: askMembers(s.paths, s.fabric.ns.dial)}
		b := s.balancer
		m.down = func() { b.down(backendOf(n)) }
		s.machines[n.Name] = m
		s.order[n.Name] = nodeServices(s.cluster, n, networks[s.cluster.Plugin])
	}
	return m
}

// nodeVerb stops, starts or kills one node, or replaces its member of etcd. A stop returns the
// pods that had not ended within grace.
func (s *supervisor) nodeVerb(ctx context.Context, name, verb string, grace time.Duration) (left []string, err error) {
	s.mu.Lock()
	var m *machine
	for _, n := range s.cluster.Nodes {
		if n.Name == name && s.balancer != nil {
			m = s.machine(n)
		}
	}
	s.mu.Unlock()
	if m == nil {
		return nil, fmt.Errorf("no node %q runs in environment %q", name, s.cluster.Environment)
	}
	switch verb {
	case "stop":
		// Written first: a node that a person stopped stays so if we die on the way.
		if _, err := writeFile(s.paths.nodeStop(name), []byte("stopped by a person\n")); err != nil {
			return nil, err
		}
		left = m.drain(ctx, grace)
		m.stop()
		s.answerFor(m.node)
		return left, nil
	case "start":
		if err := os.Remove(s.paths.nodeStop(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		m.start()
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return nil, m.register(ctx)
	case "kill":
		return nil, m.kill()
	case "replace":
		return s.replaceMember(ctx, m, grace)
	}
	return nil, fmt.Errorf("unknown verb %q: want stop, start, kill or replace", verb)
}

// stop ends everything and leaves only files. Containers end first, on all nodes while these and
// the network still work, within grace; the pods of those that had not are returned.
func (s *supervisor) stop(ctx context.Context, grace time.Duration) (left []string) {
	began := time.Now()
	s.mu.Lock()
	machines := make([]*machine, 0, len(s.machines))
	for _, m := range s.machines {
		machines = append(machines, m)
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, m := range machines {
		wg.Go(func() {
			of := m.drain(ctx, grace)
			mu.Lock()
			defer mu.Unlock()
			left = append(left, of...)
		})
	}
	wg.Wait()
	for _, m := range machines {
		wg.Go(m.stop)
	}
	wg.Go(s.mirror.stop)
	wg.Wait()
	s.layers.close()
	s.fabric.close()
	if err := os.WriteFile(s.paths.stopped(), nil, 0o600); err != nil {
		s.log.Warn("note the stop", "error", err)
	}
	s.log.Info("stopped", "took", time.Since(began).Round(time.Millisecond))
	return left
}
