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
	"github.com/orrery-dev/orrery/internal/mirror/store"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Options of the driver. All but Sink, Log, CacheDir and Compiler are needed. StateDir is on a
// real file system, never overlay. Its Dist must hold the mirror's program before Prepare, the
// rest before Ensure. Executable is copied, and must call [Reexec] first. The journal's method
// Live() []driver.Effect, when there is one, tells Delete how the host was before egress.
type Options = driver.Options

// Driver makes clusters out of namespaces. It implements [driver.Driver],
// [driver.Distributor], [driver.Mirrored], [driver.NodeController], [driver.EtcdKeeper], [driver.LogSource] and [driver.FlowSource].
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
	_ driver.FlowSource     = (*Driver)(nil)
	_ driver.Distributor    = (*Driver)(nil)
	_ driver.Mirrored       = (*Driver)(nil)
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

// Mirror implements [driver.Mirrored].
func (d *Driver) Mirror() mirror.Mirror {
	return mirror.Mirror{Address: fmt.Sprintf("127.0.0.1:%d", d.cluster.Registry), PasswordFile: d.paths.mirrorPassword()}
}

// MirrorInside implements [driver.Mirrored].
func (d *Driver) MirrorInside() string { return fmt.Sprintf("%s:%d", d.cluster.Gateway, registryPort) }

// PruneMirror implements [driver.Mirrored].
func (d *Driver) PruneMirror(ctx context.Context, inUse []string, dryRun bool) (store.Pruned, error) {
	gone, err := newClient(d.paths).prune(ctx, pruneRequest{inUse, dryRun})
	if err != nil {
		return gone, fmt.Errorf("prune the mirror of environment %q: %w", d.cluster.Environment, err)
	}
	return gone, nil
}

// MendMirror implements [driver.Mirrored].
func (d *Driver) MendMirror(ctx context.Context, digests []string) ([]string, error) {
	removed, err := newClient(d.paths).mend(ctx, digests)
	if err != nil {
		return removed, fmt.Errorf("mend the mirror of environment %q: %w", d.cluster.Environment, err)
	}
	return removed, nil
}

// Prepare implements [driver.Driver]: supervisor, fabric and mirror.
func (d *Driver) Prepare(ctx context.Context) error { return d.blame(ctx, d.prepare(ctx)) }

func (d *Driver) prepare(ctx context.Context) error {
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
	ctx, cancel := context.WithTimeout(ctx, d.patience())
	defer cancel()
	err := check.Until(ctx, check.Pause{First: 10 * time.Millisecond}, func() (err error) {
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
	if err := d.paths.exchange(d.cluster); err != nil { // a restore of etcd that was interrupted
		return err
	}
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

// patience of somebody who says how slow the machine is.
func (d *Driver) patience() time.Duration { return max(patience, d.options.Timeout) }

// Ensure implements [driver.Driver].
func (d *Driver) Ensure(ctx context.Context) error { return d.blame(ctx, d.ensure(ctx)) }

func (d *Driver) ensure(ctx context.Context) error {
	if err := d.distribution(); err != nil {
		return err
	}
	if err := (&programs{paths: d.paths}).check(); err != nil {
		return err
	}
	if err := d.prepare(ctx); err != nil {
		return err
	}
	if err := newClient(d.paths).post(ctx, "/v1/start"); err != nil {
		return fmt.Errorf("start the nodes: %w", err)
	}
	api, err := newAPI(d.paths, d.cluster.API)
	if err != nil {
		return err
	}
	defer api.close()
	if r := check.Await(ctx, d.apiReady(api, d.readyPath()), nil); r.State != check.Succeeded {
		return fmt.Errorf("%w%s", r.Err, d.explain(ctx))
	}
	if _, err := writeFile(d.paths.served(), []byte("the API was ready\n")); err != nil {
		return err
	}
	if err := api.grantKubeletAccess(ctx); err != nil {
		return err
	}
	return d.putObjects(ctx, api)
}

// readyPath: what comes with Kubernetes is there since a start that came so far.
func (d *Driver) readyPath() string {
	if exists(d.paths.served()) {
		return servingPath
	}
	return readyPath
}

func (d *Driver) apiReady(a *api, path string) check.Condition {
	probes, lived := 0, ""
	return check.Condition{Component: "cluster", Name: "api", Timeout: d.options.Timeout, Interval: 30 * time.Millisecond, Probe: func(ctx context.Context) check.Result {
		if _, err := a.get(ctx, path); err != nil {
			if probes++; probes%20 == 0 {
				st, err := newClient(d.paths).status(ctx)
				if err == nil {
					err = d.hopeless(st)
				}
				if err != nil {
					return check.Fail(err)
				}
				lived = longestLife(st, "kube-apiserver")
			}
			r := check.Wait("the API at https://127.0.0.1:%d is not ready: %v", d.cluster.API, err)
			r.Progress = lived
			return r
		}
		return check.OK("the API answers at https://127.0.0.1:%d", d.cluster.API)
	}}
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
	ctx, cancel := context.WithTimeout(ctx, d.patience()+d.options.Grace+systemGrace)
	defer cancel()
	if err := d.gracefully(ctx, "/v1/stop"); err != nil {
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
	ctx, cancel := context.WithTimeout(ctx, d.patience())
	defer cancel()
	root := cgroupRoot(d.cluster.Environment)
	err = hostScopes().clear(ctx, cg, d.cluster.Environment)
	before, known := cg.before(root)
	if cg.removeEmptyParent(root) && known {
		cg.restore(before, appArmorFolder, hostModules())
	}
	return err
}

// StopNode implements [driver.NodeController].
func (d *Driver) StopNode(ctx context.Context, name string) error {
	if _, err := supervisorIdentity(d.paths); err != nil {
		return fmt.Errorf("stop node %s: %w; 'orrery up' or 'orrery start' starts the environment", name, err)
	}
	if err := d.gracefully(ctx, "/v1/nodes/"+name+"/stop"); err != nil {
		return fmt.Errorf("stop node %s: %w", name, err)
	}
	return nil
}

// gracefully asks for a stop, says how long it may take, and which pods took longer.
func (d *Driver) gracefully(ctx context.Context, path string) error {
	grace := d.options.Grace
	if grace > 0 {
		d.options.Sink.Emit(ui.Event{Time: d.now(), Type: ui.TypeNotice,
			Message: fmt.Sprintf("pods have up to %s to end, those of kube-system %s more", grace, min(grace, systemGrace))})
	}
	left, err := newClient(d.paths).stop(ctx, path, grace)
	if len(left) > 0 {
		d.options.Sink.Emit(ui.Event{Time: d.now(), Type: ui.TypeWarning,
			Message: fmt.Sprintf("%d pods had not ended in time and were killed: %s", len(left), strings.Join(left, ", "))})
	}
	return err
}

// StartNode implements [driver.NodeController].
func (d *Driver) StartNode(ctx context.Context, name string) error {
	if err := (&programs{paths: d.paths}).check(); err != nil { // the supervisor would try again and again
		return err
	}
	if err := d.node(ctx, name, "start"); err != nil {
		return err
	}
	return d.settled(ctx, name)
}

// settleTime is for how long the services of a node must have run before its start counts.
const settleTime = time.Second

// settled returns when the node runs and none of its services ends again.
func (d *Driver) settled(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, d.patience())
	defer cancel()
	c := newClient(d.paths)
	var since time.Time
	var before string
	err := check.Until(ctx, check.Pause{First: 100 * time.Millisecond}, func() error {
		st, err := c.status(ctx)
		if err != nil {
			return err
		}
		for _, m := range st.Nodes {
			if m.Name != name {
				continue
			}
			now, err := m.steady()
			if now != before || err != nil {
				before, since = now, d.now()
			}
			if err == nil && d.now().Sub(since) < settleTime {
				err = errors.New("its services have only begun")
			}
			return err
		}
		return errors.New("nothing is known of it")
	})
	if err != nil {
		return fmt.Errorf("%s does not start properly: %w%s", name, err, d.explain(ctx))
	}
	return nil
}

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
