package fake

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/mirror/store"
	"github.com/orrery-dev/orrery/internal/spec"
)

// Options of [New].
type Options struct {
	// Spec is valid and has its ports chosen; a port of 0 is any that is free.
	Spec     spec.Environment
	StateDir string
	Journal  driver.Journal
	// Host is the URL of the host. Default: what HostVariable names.
	Host string
}

// Driver makes environments of nothing. It implements [driver.Driver],
// [driver.NodeController], [driver.EtcdKeeper], [driver.LogSource] and [driver.FlowSource].
type Driver struct {
	Options
}

var (
	_ driver.Driver         = (*Driver)(nil)
	_ driver.NodeController = (*Driver)(nil)
	_ driver.EtcdKeeper     = (*Driver)(nil)
	_ driver.LogSource      = (*Driver)(nil)
	_ driver.FlowSource     = (*Driver)(nil)
	_ driver.Distributor    = (*Driver)(nil)
)

// Files of the state directory.
const (
	memoryFile     = "fake.json"
	kubeconfigFile = "kubeconfig"
	logsDir        = "logs"
)

// memory is what the driver knows of an environment that it began to make.
type memory struct {
	Registry string               `json:"registry,omitempty"` // address
	API      string               `json:"api,omitempty"`      // address
	Stopped  bool                 `json:"stopped,omitempty"`
	Nodes    map[string]nodeState `json:"nodes,omitempty"`
}

type nodeState struct {
	Stopped  bool `json:"stopped,omitempty"`
	Restarts int  `json:"restarts,omitempty"`
}

// New makes the driver of one environment, and nothing else.
func New(o Options) (*Driver, error) {
	o.Host = cmp.Or(o.Host, os.Getenv(HostVariable))
	if o.Host == "" {
		return nil, fmt.Errorf("the fake driver has no host: set %s to the URL of one", HostVariable)
	}
	if o.Journal == nil || o.StateDir == "" {
		return nil, errors.New("the fake driver needs a journal and a state directory")
	}
	return &Driver{o}, nil
}

// Kind is this driver as a test registers it ([driver.Register]).
func Kind() driver.Kind {
	return driver.Kind{
		Name:         "fake",
		Capabilities: driver.Capabilities{Distribution: true, Mirror: true, Nodes: true, Addresses: true, NodeFaults: true},
		New: func(o driver.Options) (driver.Driver, error) {
			return New(Options{Spec: o.Spec, StateDir: o.StateDir, Journal: o.Journal})
		},
	}
}

// Dist implements [driver.Distributor]. Nothing runs from there.
func (d *Driver) Dist() driver.Dist { return driver.Dist(filepath.Join(d.StateDir, "dist")) }

// Installed implements [driver.Distributor].
func (d *Driver) Installed(names ...string) error {
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(string(d.Dist()), name)); err != nil {
			return fmt.Errorf("what was installed is not there: %w", err)
		}
	}
	return nil
}

// Mirror implements [driver.Mirrored]. Everybody may write to it.
func (d *Driver) Mirror() mirror.Mirror {
	m, _, _ := d.remembered() // an unreadable one has no mirror
	return mirror.Mirror{Address: m.Registry}
}

// MirrorInside implements [driver.Mirrored].
func (d *Driver) MirrorInside() string { return d.Mirror().Address }

// PruneMirror implements [driver.Mirrored]. It frees nothing: [Cluster.Pruned] has what was asked.
func (d *Driver) PruneMirror(ctx context.Context, inUse []string, dryRun bool) (store.Pruned, error) {
	_, err := d.ask(ctx, order{Prune: &Pruning{inUse, dryRun}})
	return store.Pruned{Manifests: []store.Manifest{}}, err
}

// MendMirror implements [driver.Mirrored]. It forgets what [Cluster.Damage] has damaged.
func (d *Driver) MendMirror(ctx context.Context, digests []string) ([]string, error) {
	r, err := d.ask(ctx, order{Mend: digests})
	return r.Mended, err
}

// Issue implements [driver.Issuer], with the one key that there is.
func (d *Driver) Issue(_ context.Context, life time.Duration) (kubeconfig []byte, ends time.Time, err error) {
	kubeconfig, err = os.ReadFile(d.path(kubeconfigFile))
	return kubeconfig, time.Now().Add(life), err
}

func (d *Driver) path(name string) string { return filepath.Join(d.StateDir, name) }

// remembered is false when nothing was made.
func (d *Driver) remembered() (m memory, ok bool, err error) {
	data, err := os.ReadFile(d.path(memoryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	return m, true, err
}

func (d *Driver) remember(m memory) error {
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return atomicfile.Write(d.path(memoryFile), data, 0o600)
}

// effects that the driver makes, in order.
func (d *Driver) effects() []driver.Effect {
	return []driver.Effect{
		{Kind: "directory", ID: d.StateDir},
		{Kind: "listener", ID: "registry of " + d.Spec.Name},
		{Kind: "listener", ID: "api of " + d.Spec.Name},
	}
}

func (d *Driver) begin(effects ...driver.Effect) error {
	for _, e := range effects {
		if err := d.Journal.Begin(e); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	return nil
}

// Preflight implements [driver.Driver].
func (d *Driver) Preflight(context.Context) []check.Condition {
	return []check.Condition{{Component: "host", Name: "host", Probe: func(ctx context.Context) check.Result {
		if err := d.do(ctx, "Preflight", func() error { return nil }); err != nil {
			return check.Fail(err)
		}
		return check.OK("it is a test's")
	}}}
}

// Prepare implements [driver.Driver].
func (d *Driver) Prepare(ctx context.Context) error {
	return d.do(ctx, "Prepare", func() error { return d.prepare(ctx) })
}

func (d *Driver) prepare(ctx context.Context) error {
	m, _, err := d.remembered()
	if err != nil {
		return err
	}
	if err := d.begin(d.effects()[:2]...); err != nil {
		return err
	}
	if err := os.MkdirAll(d.StateDir, 0o700); err != nil {
		return err
	}
	if err := d.remember(m); err != nil {
		return err
	}
	r, err := d.ask(ctx, order{Registry: cmp.Or(m.Registry, fmt.Sprintf("127.0.0.1:%d", d.Spec.Ports.Registry))})
	if err != nil {
		return err
	}
	m.Registry = r.Registry
	return d.remember(m)
}

// Ensure implements [driver.Driver].
func (d *Driver) Ensure(ctx context.Context) error {
	return d.do(ctx, "Ensure", func() error {
		if err := d.prepare(ctx); err != nil {
			return err
		}
		m, _, err := d.remembered()
		if err != nil {
			return err
		}
		if err := d.begin(d.effects()[2]); err != nil {
			return err
		}
		r, err := d.ask(ctx, order{API: cmp.Or(m.API, fmt.Sprintf("127.0.0.1:%d", d.Spec.Ports.API)), Nodes: d.nodes(m)})
		if err != nil {
			return err
		}
		if err := atomicfile.Write(d.path(kubeconfigFile), []byte(r.Kubeconfig), 0o600); err != nil {
			return err
		}
		if err := d.writeLogs(); err != nil {
			return err
		}
		m.API, m.Stopped = r.API, false
		return d.remember(m)
	})
}

// Ready implements [driver.Driver].
func (d *Driver) Ready(ctx context.Context) error {
	return d.do(ctx, "Ready", func() error {
		r := check.Await(ctx, check.Condition{Component: "cluster", Name: "nodes-ready", Interval: 20 * time.Millisecond,
			Probe: func(ctx context.Context) check.Result {
				o, err := d.observe(ctx)
				switch {
				case err != nil:
					return check.Fail(err)
				case o.Phase == driver.PhaseRunning:
					return check.OK("%d nodes are Ready", len(o.Nodes))
				}
				for _, n := range o.Nodes {
					if !n.Running && !n.Stopped {
						return check.Wait("node %s does not run", n.Name)
					}
				}
				return check.Fail(fmt.Errorf("the environment is %s", o.Phase))
			}}, nil)
		if r.Err != nil {
			return r.Err
		}
		return os.RemoveAll(d.path(keptEtcd))
	})
}

// Observe implements [driver.Driver].
func (d *Driver) Observe(ctx context.Context) (o driver.Observation, err error) {
	err = d.do(ctx, "Observe", func() (err error) {
		o, err = d.observe(ctx)
		return err
	})
	return o, err
}

func (d *Driver) observe(ctx context.Context) (driver.Observation, error) {
	o := driver.Observation{Phase: driver.PhaseAbsent}
	m, made, err := d.remembered()
	if err != nil {
		return o, err
	}
	r, err := d.ask(ctx, order{})
	if err != nil {
		return o, err
	}
	if !made {
		if r.API != "" || r.Registry != "" {
			o.Phase = driver.PhasePartial
		}
		return o, nil
	}
	o.Phase, o.Endpoints = driver.PhasePartial, map[string]string{}
	if m.Registry != "" {
		o.Endpoints["registry"] = m.Registry
	}
	if m.API == "" {
		return o, nil
	}
	o.Endpoints["api"], o.Kubeconfig = "https://"+m.API, d.path(kubeconfigFile)
	complete := r.API != "" && r.Registry != ""
	for _, n := range d.Spec.Topology() {
		s := m.Nodes[n.Name]
		out := driver.Node{
			Name: n.Name, Role: driver.Role(n.Role), Zone: n.Zone, Rack: n.Rack, Address: n.Address.String(), PodCIDR: n.PodCIDR.String(),
			Running: r.API != "" && !s.Stopped && !slices.Contains(r.Down, n.Name), Stopped: s.Stopped,
		}
		for _, name := range services(n.Role) {
			out.Services = append(out.Services, driver.Service{Name: name, Restarts: s.Restarts})
		}
		complete = complete && (out.Running || out.Stopped)
		o.Nodes = append(o.Nodes, out)
	}
	switch {
	case complete:
		o.Phase = driver.PhaseRunning
	case m.Stopped && r.API == "" && r.Registry == "":
		o.Phase = driver.PhaseStopped
	}
	return o, nil
}

// Stop implements [driver.Driver].
func (d *Driver) Stop(ctx context.Context) error {
	return d.do(ctx, "Stop", func() error {
		m, made, err := d.remembered()
		if err != nil || !made {
			return err
		}
		if _, err := d.ask(ctx, order{Stop: true}); err != nil {
			return err
		}
		m.Stopped = true
		return d.remember(m)
	})
}

// Delete implements [driver.Driver].
func (d *Driver) Delete(ctx context.Context) error {
	return d.do(ctx, "Delete", func() error {
		_, err := d.ask(ctx, order{Reset: true})
		if err = errors.Join(err, os.RemoveAll(d.StateDir)); err != nil {
			return err
		}
		for _, e := range slices.Backward(d.effects()) {
			err = errors.Join(err, d.Journal.Undone(e))
		}
		return err
	})
}

// Audit implements [driver.Driver].
func (d *Driver) Audit(ctx context.Context) ([]string, error) {
	r, err := d.ask(ctx, order{Method: "Audit"})
	if err != nil {
		return nil, err
	}
	leaks := r.Fault.Leaks
	if r.Fault.Error != "" {
		return leaks, errors.New(r.Fault.Error)
	}
	if r.API != "" {
		leaks = append(leaks, "listener of the API at "+r.API)
	}
	if r.Registry != "" {
		leaks = append(leaks, "listener of the registry at "+r.Registry)
	}
	if _, err := os.Stat(d.StateDir); err == nil {
		leaks = append(leaks, "folder "+d.StateDir)
	}
	return leaks, nil
}
