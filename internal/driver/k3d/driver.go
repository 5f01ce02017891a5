package k3d

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/spec"
)

// Kind is this driver as orrery.yaml knows it.
func Kind() driver.Kind {
	return driver.Kind{
		Name:           spec.DriverK3d,
		Capabilities:   driver.Capabilities{Distribution: true, Mirror: true, Nodes: true, NodeFaults: true},
		New:            func(o driver.Options) (driver.Driver, error) { return New(o) },
		DecideNetwork:  decideNetwork,
		NodeNetwork:    spec.PluginRoutes,
		MirrorPrograms: []string{"k3s"},
		Record:         record,
	}
}

// decideNetwork prefers Cilium, whose programs the engine's kernel has to take.
func decideNetwork(ctx context.Context, _ driver.Compiler) (plugin, reason string) {
	e, err := newEngine(os.Getenv)
	var i engineInfo
	if err == nil {
		i, err = e.info(ctx)
	}
	if err == nil {
		err = judgeKernel(i.KernelVersion)
	}
	if err != nil {
		return spec.PluginRoutes, "routes instead of cilium: " + err.Error()
	}
	return spec.PluginCilium, ""
}

// record is where [memory] is kept.
const record = "k3d.json"

// Driver of one environment.
type Driver struct {
	driver.Options
	engine *engine
}

var (
	_ driver.Driver         = (*Driver)(nil)
	_ driver.Distributor    = (*Driver)(nil)
	_ driver.Mirrored       = (*Driver)(nil)
	_ driver.NodeController = (*Driver)(nil)
	_ driver.LogSource      = (*Driver)(nil)
)

// New makes the driver, and looks at nothing.
func New(o driver.Options) (*Driver, error) {
	if o.Journal == nil || !filepath.IsAbs(o.StateDir) {
		return nil, errors.New("k3d driver: a journal and an absolute state directory are needed")
	}
	e, err := newEngine(os.Getenv)
	if err != nil {
		return nil, err
	}
	return &Driver{o, e}, nil
}

// memory is what only this environment knows of what it made.
type memory struct {
	ID       string `json:"id"`    // on its containers, so that no other of the name is taken for ours
	Token    string `json:"token"` // of its nodes
	Password string `json:"-"`     // of its mirror, in a file that others read
	Made     bool   `json:"made"`  // k3d ended well
	// Addresses of nodes, which they have again after a stop, and ranges of their pods.
	Addresses map[string]string `json:"addresses,omitempty"`
	Ranges    map[string]string `json:"ranges,omitempty"`
	Stopped   []string          `json:"stopped,omitempty"` // by a person
}

func (d *Driver) path(name string) string { return filepath.Join(d.StateDir, name) }
func (d *Driver) kubeconfig() string      { return d.path("kubeconfig") }
func (d *Driver) passwordFile() string    { return d.path("mirror-password") }

// remembered is false when nothing was begun.
func (d *Driver) remembered() (m memory, ok bool, err error) {
	b, err := os.ReadFile(d.path(record))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		return m, true, fmt.Errorf("what is known of the environment, %s: %w; if it cannot be mended, "+
			"'k3d cluster delete %s' and 'docker rm -f -v %s' remove what it made, and with that file gone 'orrery down' the rest",
			d.path(record), err, clusterName(d.Spec.Name), mirrorName(d.Spec.Name))
	}
	m.Password, err = mirror.ReadPassword(d.passwordFile())
	return m, true, err
}

func (d *Driver) remember(m memory) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(d.path(record), b, 0o600)
}

// effects in the order in which they are made.
func (d *Driver) effects() []driver.Effect {
	return []driver.Effect{
		{Kind: "directory", ID: d.StateDir},
		{Kind: "container", ID: mirrorName(d.Spec.Name)},
		{Kind: "k3d cluster", ID: clusterName(d.Spec.Name)},
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

// Dist implements [driver.Distributor].
func (d *Driver) Dist() driver.Dist { return driver.Dist(d.path("dist")) }

// Installed implements [driver.Distributor]: what is in an image is what was there when it was made.
func (d *Driver) Installed(names ...string) error {
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(string(d.Dist()), name)); err != nil {
			return fmt.Errorf("what was installed is not there: %w", err)
		}
	}
	return nil
}

func (d *Driver) notOurs() error {
	return failure.Refusedf("there is a k3d cluster %q that this environment did not make, and it is left alone: take another name (--env NAME), or remove it with 'k3d cluster delete %[1]s'",
		clusterName(d.Spec.Name))
}

// Prepare implements [driver.Driver]: the mirror.
func (d *Driver) Prepare(ctx context.Context) error {
	m, known, err := d.remembered()
	if err != nil {
		return err
	}
	if s, err := d.look(ctx, m.ID); err != nil {
		return err
	} else if s.theirs {
		return d.notOurs()
	} else if m.Made {
		if err := d.mendNetwork(ctx, m, s); err != nil {
			return err
		}
	}
	if err := d.begin(d.effects()[:2]...); err != nil {
		return err
	}
	if err := os.MkdirAll(d.StateDir, 0o700); err != nil {
		return err
	}
	if !known {
		m = memory{ID: rand.Text(), Token: rand.Text()}
		if err := d.remember(m); err != nil {
			return err
		}
	}
	if m.Password == "" {
		if err := atomicfile.Write(d.passwordFile(), mirror.NewPassword(), 0o600); err != nil {
			return err
		}
		if m.Password, err = mirror.ReadPassword(d.passwordFile()); err != nil {
			return err
		}
	}
	return d.startMirror(ctx, m)
}

// Ensure implements [driver.Driver].
func (d *Driver) Ensure(ctx context.Context) error {
	if err := d.Prepare(ctx); err != nil {
		return err
	}
	m, _, err := d.remembered()
	if err != nil {
		return err
	}
	s, err := d.look(ctx, m.ID)
	if err != nil {
		return err
	}
	if !m.Made {
		if len(s.nodes) > 0 { // what was interrupted holds nothing yet
			if err := d.k3d(ctx, nil, "cluster", "delete", clusterName(d.Spec.Name)); err != nil {
				return err
			}
		}
		if err := d.create(ctx, &m); err != nil {
			return err
		}
	} else if err := d.start(ctx, m, s); err != nil {
		return err
	}
	return d.answers(ctx)
}

// create has k3d make the cluster.
func (d *Driver) create(ctx context.Context, m *memory) error {
	if err := d.begin(d.effects()[2]); err != nil {
		return err
	}
	node, env, err := d.images(ctx)
	if err != nil {
		return err
	}
	c, err := configuration(wish{spec: d.Spec, nodeImage: node, sandbox: d.Sandbox, id: m.ID, token: m.Token})
	if err != nil {
		return err
	}
	file := d.path("k3d-config.yaml")
	if err := atomicfile.Write(file, c, 0o600); err != nil {
		return err
	}
	making, together := errgroup.WithContext(ctx)
	making.Go(func() error { return d.k3d(together, env, "cluster", "create", "--config", file) })
	making.Go(func() error { return d.pin(together, m.ID) })
	if err := making.Wait(); err != nil {
		return fmt.Errorf("%w%s", err, d.explain(ctx))
	}
	s, err := d.look(ctx, m.ID)
	if err != nil {
		return err
	}
	m.Made, m.Addresses = true, map[string]string{}
	for name, c := range s.nodes {
		m.Addresses[name] = c.Networks.Networks[networkName(d.Spec.Name)].IPAddress
	}
	if err := d.remember(*m); err != nil {
		return err
	}
	if err := d.connectMirror(ctx); err != nil {
		return err
	}
	return d.fetchKubeconfig(ctx)
}

// explain is the end of the logs of nodes that do not run, or say that they cannot.
func (d *Driver) explain(ctx context.Context) string {
	m, _, _ := d.remembered()
	s, err := d.look(context.WithoutCancel(ctx), m.ID)
	if err != nil {
		return ""
	}
	var b strings.Builder
	for name, c := range s.nodes {
		var log strings.Builder
		if d.engine.logs(context.WithoutCancel(ctx), c.ID, false, &log) != nil {
			continue
		}
		if c.State != "running" || strings.Contains(log.String(), "level=fatal") {
			fmt.Fprintf(&b, "\n%s (%s): %s", name, c.State, lastLines(log.String(), 3))
		}
	}
	return b.String()
}

// start starts what should run and does not.
func (d *Driver) start(ctx context.Context, m memory, s seen) error {
	var gone []string
	for _, p := range places(d.Spec) {
		if _, ok := s.nodes[p.name]; !ok {
			gone = append(gone, p.node.Name)
		}
	}
	if gone != nil {
		return fmt.Errorf("somebody removed %s, and what was in it went with it: 'orrery down' and 'orrery up' make the environment anew", strings.Join(gone, ", "))
	}
	if err := d.mendBalancer(ctx, s); err != nil {
		return err
	}
	var g errgroup.Group
	for name, c := range s.nodes {
		if c.State == "running" || slices.Contains(m.Stopped, name) {
			continue
		}
		g.Go(func() error { return d.startContainer(ctx, c) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := d.connectMirror(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(d.kubeconfig()); err != nil {
		return d.fetchKubeconfig(ctx)
	}
	return nil
}

// fetchKubeconfig takes k3d's and gives it the environment's name.
func (d *Driver) fetchKubeconfig(ctx context.Context) error {
	out, err := d.k3dOutput(ctx, nil, "kubeconfig", "get", clusterName(d.Spec.Name))
	if err != nil {
		return err
	}
	c, err := clientcmd.Load([]byte(out))
	if err != nil {
		return fmt.Errorf("k3d's kubeconfig: %w", err)
	}
	current := c.Contexts[c.CurrentContext]
	if current == nil || c.Clusters[current.Cluster] == nil || c.AuthInfos[current.AuthInfo] == nil {
		return errors.New("k3d's kubeconfig has no current context")
	}
	name := clusterName(d.Spec.Name)
	cluster, user := c.Clusters[current.Cluster], c.AuthInfos[current.AuthInfo]
	clear(c.Clusters)
	clear(c.AuthInfos)
	clear(c.Contexts)
	cluster.Server = d.api()
	c.Clusters[name], c.AuthInfos[name] = cluster, user
	current.Cluster, current.AuthInfo = name, name
	c.Contexts[name], c.CurrentContext = current, name
	b, err := clientcmd.Write(*c)
	if err != nil {
		return err
	}
	return atomicfile.Write(d.kubeconfig(), b, 0o600)
}

func (d *Driver) api() string { return fmt.Sprintf("https://127.0.0.1:%d", d.Spec.Ports.API) }

// answers waits for the API.
func (d *Driver) answers(ctx context.Context) error {
	client, err := kube.Connect(d.kubeconfig(), kube.WithLog(d.Log))
	if err != nil {
		return err
	}
	defer client.Close()
	r := check.Await(ctx, check.Condition{Component: "cluster", Name: "api", Timeout: d.Timeout, Interval: 200 * time.Millisecond, Probe: func(ctx context.Context) check.Result {
		if _, err := client.RawGet(ctx, "/readyz"); err != nil {
			return check.Wait("the API at %s is not ready: %v", d.api(), err)
		}
		return check.OK("the API answers at %s", d.api())
	}}, nil)
	if r.State != check.Succeeded {
		return fmt.Errorf("%w%s", r.Err, d.explain(ctx))
	}
	return nil
}

// Ready implements [driver.Driver].
func (d *Driver) Ready(ctx context.Context) error {
	m, _, err := d.remembered()
	if err != nil {
		return err
	}
	client, err := kube.Connect(d.kubeconfig(), kube.WithLog(d.Log))
	if err != nil {
		return err
	}
	defer client.Close()
	r := check.Await(ctx, check.Condition{Component: "cluster", Name: "nodes", Timeout: d.Timeout, Interval: 300 * time.Millisecond, Probe: func(ctx context.Context) check.Result {
		nodes, err := client.List(ctx, "v1", "Node", "", "")
		if err != nil {
			return check.Wait("%v", err)
		}
		ready := map[string]bool{}
		for _, n := range nodes {
			ready[n.GetName()] = kube.StatusCondition(&n, "Ready").True()
		}
		var not []string
		for _, p := range places(d.Spec) {
			if !ready[p.node.Name] && !slices.Contains(m.Stopped, p.name) {
				not = append(not, p.node.Name)
			}
		}
		if not != nil {
			return check.Wait("not Ready: %s", strings.Join(not, ", "))
		}
		return check.OK("all nodes are Ready")
	}}, nil)
	if r.State != check.Succeeded {
		return fmt.Errorf("%w%s", r.Err, d.explain(ctx))
	}
	return nil
}

// Stop implements [driver.Driver].
func (d *Driver) Stop(ctx context.Context) error {
	m, known, err := d.remembered()
	if err != nil || !known {
		return err
	}
	s, err := d.look(ctx, m.ID)
	if err != nil {
		return err
	}
	if s.theirs {
		return d.notOurs()
	}
	all := s.nodes
	if s.mirror != nil {
		all[s.mirror.name()] = *s.mirror
	}
	var g errgroup.Group
	for _, c := range all {
		g.Go(func() error { return d.stopContainer(ctx, c) })
	}
	return g.Wait()
}
