package native

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/bpf"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Options of the driver. All but Sink, Log and CacheDir are needed.
type Options struct {
	// Spec is valid and has its ports chosen.
	Spec spec.Environment
	// StateDir holds everything of the environment, on a real file system (never overlay).
	// <StateDir>/dist/bin must hold the node distribution: the registry before Prepare, the
	// rest before Ensure.
	StateDir string
	CacheDir string
	// Executable is this program; it is copied, and must call [Reexec] first.
	Executable string
	// Journal is told of every effect first. Its method Live() []driver.Effect, when there
	// is one, tells Delete how the host was before egress.
	Journal driver.Journal
	Sink    ui.Sink
	Log     *slog.Logger
	// Sandbox is the image of every pod's sandbox, by digest: what the lock has. Empty: what
	// the environment was made with; a new one then takes [SandboxImage], whatever the mirror
	// has under that tag.
	Sandbox string
	// Compiler of BPF programs, for preflight; nil looks on PATH.
	Compiler Compiler
}

// Driver makes clusters out of namespaces. It implements [driver.Driver],
// [driver.NodeController] and [driver.LogSource].
type Driver struct {
	options Options
	paths   paths
	cluster cluster
	host    host
	log     *slog.Logger
	now     func() time.Time

	bpf []bpf.Object // of the nodes that Delete ended, for Audit
}

var (
	_ driver.Driver         = (*Driver)(nil)
	_ driver.NodeController = (*Driver)(nil)
	_ driver.LogSource      = (*Driver)(nil)
)

// New makes a driver. It looks at nothing and changes nothing.
func New(o Options) (*Driver, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Sink == nil {
		o.Sink = ui.Discard
	}
	if !filepath.IsAbs(o.StateDir) || filepath.Clean(o.StateDir) == "/" {
		return nil, fmt.Errorf("state directory %q: want an absolute path of its own", o.StateDir)
	}
	if o.Journal == nil {
		return nil, errors.New("native driver: a journal is needed")
	}
	c, err := newCluster(o.Spec)
	if err != nil {
		return nil, err
	}
	c.Sandbox = o.Sandbox
	if _, ok := networks[c.Plugin]; !ok {
		return nil, fmt.Errorf("network.plugin %q has to be decided before there are nodes: want %s or %s", c.Plugin, spec.PluginCilium, spec.PluginPTP)
	}
	h := realHost()
	if o.Compiler != nil {
		h.compiler = o.Compiler
	}
	return &Driver{options: o, paths: paths(filepath.Clean(o.StateDir)), cluster: c, host: h, log: o.Log, now: time.Now}, nil
}

// Mirror is what the environment in stateDir pulls from, for who may write to it; port is
// ports.registry of its spec.
func Mirror(stateDir string, port int) mirror.Mirror {
	return mirror.Mirror{Address: fmt.Sprintf("127.0.0.1:%d", port), PasswordFile: paths(stateDir).mirrorPassword()}
}

// Prepare implements [driver.Driver]: supervisor, fabric and mirror.
func (d *Driver) Prepare(ctx context.Context) error {
	if err := d.makeState(); err != nil {
		return err
	}
	if err := (&programs{paths: d.paths}).check("bin/registry"); err != nil {
		return err
	}
	if err := d.makeEgress(ctx); err != nil {
		return err
	}
	if err := d.ensureSupervisor(ctx); err != nil {
		return err
	}
	c := newClient(d.paths)
	var last supervisorStatus
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := poll(ctx, 10*time.Millisecond, func() (err error) {
		if last, err = c.status(ctx); err == nil && last.Registry.State != "running" {
			err = errors.New(last.Registry.Detail)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("the registry mirror does not answer: %w; the end of %s: %s", err, d.paths.log("registry"), tail(d.paths.log("registry"), 500))
	}
	return nil
}

// makeState makes the state directory with keys and configuration.
func (d *Driver) makeState() error {
	if !exists(string(d.paths)) || !exists(d.paths.cluster()) {
		if err := d.options.Journal.Begin(d.directoryEffect()); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	for _, dir := range []string{"", "log", "bin", "dist/bin"} {
		if err := os.MkdirAll(d.paths.join(dir), 0o700); err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
	}
	if err := os.Chmod(string(d.paths), 0o700); err != nil {
		return err
	}
	c := d.cluster
	have, err := loadCluster(d.paths)
	switch {
	case err == nil:
		if err := sameShape(have, c); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		d.log.Warn("cluster.json is written anew", "error", err)
	}
	c.Sandbox = cmp.Or(c.Sandbox, have.Sandbox, SandboxImage)
	_, err = materialize(&issuer{now: d.now}, d.paths, c)
	return err
}

// sameShape refuses what cannot change while an environment exists.
func sameShape(have, want cluster) error {
	h, w := have, want
	h.Memory, w.Memory, h.Fast, w.Fast, h.Sandbox, w.Sandbox = 0, 0, false, false, "", ""
	a, b := fmt.Sprintf("%+v", h), fmt.Sprintf("%+v", w)
	if a != b {
		return fmt.Errorf("environment %q exists with other nodes, ranges or ports, which cannot change in place: 'orrery down' first", have.Environment)
	}
	return nil
}

func (d *Driver) directoryEffect() driver.Effect {
	return driver.Effect{Kind: "directory", ID: string(d.paths)}
}

func (d *Driver) cgroupEffect() driver.Effect {
	return driver.Effect{Kind: "cgroup", ID: cgroupRoot(d.cluster.Environment)}
}

func (d *Driver) supervisorEffect() driver.Effect {
	return driver.Effect{Kind: "process", ID: "supervisor", Info: map[string]string{"lock": d.paths.lock()}}
}

// patience bounds what takes a moment, unless the machine has much else to do: giving up
// would leave things behind, or undo what was about to be.
const patience = time.Minute

// Ensure implements [driver.Driver].
func (d *Driver) Ensure(ctx context.Context) error {
	if err := d.distribution(); err != nil {
		return err
	}
	if err := (&programs{paths: d.paths}).check(); err != nil {
		return err
	}
	if err := d.Prepare(ctx); err != nil {
		return err
	}
	// What comes with Kubernetes is there since the first start.
	ready := readyPath
	if exists(d.paths.etcd(d.cluster.servers()[0])) {
		ready = servingPath
	}
	if err := newClient(d.paths).post(ctx, "/v1/start"); err != nil {
		return fmt.Errorf("start the nodes: %w", err)
	}
	api, err := newAPI(d.paths, d.cluster.API)
	if err != nil {
		return err
	}
	defer api.close()
	if r := check.Await(ctx, d.apiReady(api, ready), nil); r.State != check.Succeeded {
		return fmt.Errorf("%w%s", r.Err, d.explain(ctx))
	}
	if err := api.grantKubeletAccess(ctx); err != nil {
		return err
	}
	return d.networkObjects(ctx, api)
}

func (d *Driver) apiReady(a *api, path string) check.Condition {
	probes := 0
	return check.Condition{Component: "cluster", Name: "api", Interval: 30 * time.Millisecond, Probe: func(ctx context.Context) check.Result {
		if _, err := a.get(ctx, path); err != nil {
			if probes++; probes%20 == 0 {
				if err := d.hopeless(ctx); err != nil {
					return check.Fail(err)
				}
			}
			return check.Wait("the API at https://127.0.0.1:%d is not ready: %v", d.cluster.API, err)
		}
		return check.OK("the API answers at https://127.0.0.1:%d", d.cluster.API)
	}}
}

// hopeless is an error when no server comes up at all: the same thing fails again and
// again before any service runs, and waiting longer will not help.
func (d *Driver) hopeless(ctx context.Context) error {
	st, err := newClient(d.paths).status(ctx)
	if err != nil {
		return err
	}
	for _, n := range st.Nodes {
		server := d.cluster.role(n.Name) == driver.RoleServer
		if server && n.Wanted && (n.Running || n.Problem == "" || n.Starts < 5) {
			return nil
		}
	}
	return errors.New("no server starts")
}

// distribution checks that the node's programs are there.
func (d *Driver) distribution() error {
	net := networks[d.cluster.Plugin]
	need := []string{"bin/kubelet", "bin/kube-apiserver", "bin/kube-controller-manager", "bin/kube-scheduler", "bin/etcd",
		"bin/containerd", "bin/containerd-shim-runc-v2", "bin/runc", "bin/registry"}
	var missing []string
	for _, n := range append(need, net.programs()...) {
		if _, err := os.Stat(d.paths.join("dist", n)); err != nil {
			missing = append(missing, n)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the node distribution in %s lacks %s: 'orrery up' builds it", d.paths.join("dist"), strings.Join(missing, ", "))
	}
	return nil
}

// Stop implements [driver.Driver].
func (d *Driver) Stop(ctx context.Context) error {
	id, err := supervisorIdentity(d.paths)
	if errors.Is(err, errNoSupervisor) {
		// Whatever is left of a supervisor that was killed is killed too.
		return errors.Join(d.endProcesses(ctx), d.undoEgress(ctx))
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := newClient(d.paths).post(ctx, "/v1/stop"); err != nil {
		d.log.Warn("the supervisor does not stop when asked; it is ended", "error", err)
	}
	if err := id.End(ctx, syscall.SIGTERM, 3*time.Second); err != nil {
		return err
	}
	if err := errors.Join(d.endProcesses(ctx), d.undoEgress(ctx)); err != nil {
		return err
	}
	for _, e := range []driver.Effect{d.supervisorEffect(), d.cgroupEffect()} {
		if err := d.options.Journal.Undone(e); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	return nil
}

// endProcesses kills everything in the environment's control groups and removes them.
func (d *Driver) endProcesses(ctx context.Context) error {
	cg, err := hostCgroups()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	root := cgroupRoot(d.cluster.Environment)
	err = errors.Join(cg.kill(ctx, root), cg.remove(ctx, root))
	cg.removeEmptyParent(root)
	return err
}

// StopNode implements [driver.NodeController].
func (d *Driver) StopNode(ctx context.Context, name string) error { return d.node(ctx, name, "stop") }

// StartNode implements [driver.NodeController].
func (d *Driver) StartNode(ctx context.Context, name string) error { return d.node(ctx, name, "start") }

// KillNode implements [driver.NodeController].
func (d *Driver) KillNode(ctx context.Context, name string) error { return d.node(ctx, name, "kill") }

func (d *Driver) node(ctx context.Context, name, verb string) error {
	if _, err := supervisorIdentity(d.paths); err != nil {
		return fmt.Errorf("%s node %s: %w; 'orrery up' or 'orrery start' starts the environment", verb, name, err)
	}
	if err := newClient(d.paths).post(ctx, "/v1/nodes/"+name+"/"+verb); err != nil {
		return fmt.Errorf("%s node %s: %w", verb, name, err)
	}
	return nil
}

// explain says what the nodes' services do, for an error about waiting.
func (d *Driver) explain(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	st, err := newClient(d.paths).status(ctx)
	if err != nil {
		return "; " + err.Error()
	}
	var b strings.Builder
	for _, n := range st.Nodes {
		switch {
		case !n.Wanted:
			fmt.Fprintf(&b, "\n  %s was stopped by a person: 'orrery node start %s'", n.Name, n.Name)
		case !n.Running:
			fmt.Fprintf(&b, "\n  %s does not run: %s", n.Name, n.Problem)
		}
		for _, s := range n.Services {
			if s.Restarts > 0 || s.State != "running" {
				why, _ := d.failure(n.Name, s.Name)
				if why == "" {
					why = "the end of its log: " + lastLine(tail(d.paths.nodeLog(n.Name, s.Name), 400))
				}
				fmt.Fprintf(&b, "\n  %s/%s: %s, %d restarts; %s", n.Name, s.Name, s.State, s.Restarts, why)
			}
		}
	}
	return b.String()
}

func lastLine(s string) string { return s[strings.LastIndexByte(s, '\n')+1:] }

// machineID of a node: the same for the life of the environment, another one in every other.
func machineID(env, node string) string {
	h := sha256.Sum256([]byte("orrery machine-id " + env + "/" + node))
	return hex.EncodeToString(h[:16])
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
