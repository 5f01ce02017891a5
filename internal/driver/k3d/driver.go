package k3d

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/k3d/contract"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/mirror/store"
	"github.com/orrery-dev/orrery/internal/proc"
	"github.com/orrery-dev/orrery/internal/spec"
)

// Kind is this driver as orrery.yaml knows it.
func Kind() driver.Kind {
	return driver.Kind{
		Name:         spec.DriverK3d,
		Capabilities: driver.Capabilities{Distribution: true, Mirror: true, Nodes: true, NodeFaults: true},
		New:          func(o driver.Options) (driver.Driver, error) { return New(o) },
		DecideNetwork: func(context.Context, driver.Compiler) (plugin, reason string) {
			return spec.PluginRoutes, ""
		},
		MirrorPrograms: []string{"k3s"},
	}
}

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
	b, err := os.ReadFile(d.path("k3d.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		return m, true, fmt.Errorf("what is known of the environment, %s: %w", d.path("k3d.json"), err)
	}
	m.Password, err = mirror.ReadPassword(d.passwordFile())
	return m, true, err
}

func (d *Driver) remember(m memory) error {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(d.path("k3d.json"), b, 0o600)
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

// Mirror implements [driver.Mirrored].
func (d *Driver) Mirror() mirror.Mirror {
	return mirror.Mirror{Address: fmt.Sprintf("127.0.0.1:%d", d.Spec.Ports.Registry), PasswordFile: d.passwordFile()}
}

// MirrorInside implements [driver.Mirrored].
func (d *Driver) MirrorInside() string {
	return fmt.Sprintf("%s:%d", mirrorAddress(d.Spec), contract.MirrorPort)
}

// PruneMirror implements [driver.Mirrored].
func (d *Driver) PruneMirror(ctx context.Context, inUse []string, dryRun bool) (gone store.Pruned, err error) {
	body, err := json.Marshal(contract.Pruning{InUse: inUse, DryRun: dryRun})
	if err != nil {
		return gone, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+d.Mirror().Address+contract.PrunePath, strings.NewReader(string(body)))
	if err != nil {
		return gone, err
	}
	if err := d.Mirror().Authorize(req); err != nil {
		return gone, err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return gone, fmt.Errorf("prune the mirror of environment %q: %w", d.Spec.Name, err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", r.Status, strings.TrimSpace(string(b)))
	}
	if err == nil {
		err = json.Unmarshal(b, &gone)
	}
	if err != nil {
		return gone, fmt.Errorf("prune the mirror of environment %q: %w", d.Spec.Name, err)
	}
	return gone, nil
}

// seen is what the engine has of an environment.
type seen struct {
	nodes  map[string]container // k3d's nodes with the load balancer, by name
	mirror *container
	theirs bool // a cluster of that name that is not ours
}

// look asks the engine. id is the environment's, "" when it has none.
func (d *Driver) look(ctx context.Context, id string) (seen, error) {
	s := seen{nodes: map[string]container{}}
	list, err := d.engine.containers(ctx, labelCluster+"="+clusterName(d.Spec.Name))
	if err != nil {
		return s, err
	}
	for _, c := range list {
		s.nodes[c.name()] = c
		if role := c.Labels[labelRole]; (role == "server" || role == "agent") && (id == "" || c.Labels[labelID] != id) {
			s.theirs = true
		}
	}
	if id == "" {
		return s, nil
	}
	mirrors, err := d.engine.containers(ctx, labelID+"="+id)
	for _, c := range mirrors {
		if c.name() == mirrorName(d.Spec.Name) {
			s.mirror = &c
		}
	}
	return s, err
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

func (d *Driver) startMirror(ctx context.Context, m memory) error {
	s, err := d.look(ctx, m.ID)
	if err != nil {
		return err
	}
	if s.mirror == nil {
		i, err := helperImage("mirror", runtime.GOARCH, d.Dist().Program("k3s"), d.Dist().Program("registry"))
		if err != nil {
			return err
		}
		tag, err := d.engine.load(ctx, i)
		if err != nil {
			return err
		}
		name, port := mirrorName(d.Spec.Name), fmt.Sprintf("%d/tcp", contract.MirrorPort)
		if err := d.engine.call(ctx, http.MethodPost, "/containers/create?name="+name, object{
			"Image": tag, "Hostname": name, "ExposedPorts": object{port: object{}},
			"Env":    []string{contract.MirrorPassword + "=" + m.Password, contract.MirrorNames + "=" + name + "," + mirrorAddress(d.Spec).String()},
			"Labels": object{labelEnvironment: d.Spec.Name, labelID: m.ID},
			"HostConfig": object{
				"PortBindings":  object{port: []object{{"HostIp": "127.0.0.1", "HostPort": fmt.Sprint(d.Spec.Ports.Registry)}}},
				"RestartPolicy": object{"Name": "unless-stopped"}, "Init": true,
			},
		}, nil); err != nil {
			return fmt.Errorf("make the mirror's container %s: %w", name, err)
		}
	}
	if s.mirror == nil || s.mirror.State != "running" {
		if err := d.engine.post(ctx, "/containers/"+mirrorName(d.Spec.Name)+"/start"); err != nil {
			return fmt.Errorf("start the mirror on 127.0.0.1:%d: %w; end what holds the port or set another ports.registry in orrery.yaml", d.Spec.Ports.Registry, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, max(time.Minute, d.Timeout))
	defer cancel()
	return check.Until(ctx, check.Pause{First: 50 * time.Millisecond, Most: time.Second}, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.Mirror().Address+"/v2/", nil)
		if err != nil {
			return err
		}
		if err := d.Mirror().Authorize(req); err != nil {
			return err
		}
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("the registry mirror does not answer: %w", err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("the registry mirror answers %s", r.Status)
		}
		return nil
	})
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
	images, err := d.images()
	if err != nil {
		return err
	}
	tags := make([]string, len(images))
	for n, i := range images {
		if tags[n], err = d.engine.load(ctx, i); err != nil {
			return err
		}
	}
	c, err := configuration(wish{spec: d.Spec, nodeImage: tags[0], sandbox: d.Sandbox, id: m.ID, token: m.Token})
	if err != nil {
		return err
	}
	file := d.path("k3d-config.yaml")
	if err := atomicfile.Write(file, c, 0o600); err != nil {
		return err
	}
	if err := d.k3d(ctx, []string{
		"K3D_IMAGE_LOADBALANCER=" + tags[1], "K3D_IMAGE_TOOLS=" + tags[2],
		// What these do, nodes of ours do by themselves.
		"K3D_FIX_DNS=0", "K3D_FIX_MOUNTS=0", "K3D_FIX_CGROUPV2=0",
	}, "cluster", "create", "--config", file); err != nil {
		return fmt.Errorf("%w%s", err, d.explain(ctx))
	}
	s, err := d.look(ctx, m.ID)
	if err != nil {
		return err
	}
	m.Made, m.Addresses = true, map[string]string{}
	for name, c := range s.nodes {
		m.Addresses[name] = c.Networks.Networks["k3d-"+clusterName(d.Spec.Name)].IPAddress
	}
	if err := d.remember(*m); err != nil {
		return err
	}
	if err := d.connectMirror(ctx); err != nil {
		return err
	}
	return d.fetchKubeconfig(ctx)
}

// images of nodes, load balancer and tools.
func (d *Driver) images() ([]*image, error) {
	node, err := nodeImage(d.Dist(), runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	images := []*image{node}
	for _, what := range []string{"proxy", "tools"} {
		i, err := helperImage(what, runtime.GOARCH, d.Dist().Program("k3s"))
		if err != nil {
			return nil, err
		}
		images = append(images, i)
	}
	return images, nil
}

// connectMirror puts the mirror where nodes find it by name.
func (d *Driver) connectMirror(ctx context.Context) error {
	err := d.engine.call(ctx, http.MethodPost, "/networks/k3d-"+clusterName(d.Spec.Name)+"/connect", object{
		"Container": mirrorName(d.Spec.Name), "EndpointConfig": object{"IPAMConfig": object{"IPv4Address": mirrorAddress(d.Spec).String()}},
	}, nil)
	if err != nil && !strings.Contains(err.Error(), "already exists") {
		return fmt.Errorf("connect the mirror to the nodes: %w", err)
	}
	return nil
}

// mirrorAddress is the last one of the range, which nodes do not come to: started before them, the mirror
// would take one of theirs.
func mirrorAddress(e spec.Environment) netip.Addr {
	p := netip.MustParsePrefix(e.Network.Nodes).Masked() // a valid spec has one
	a := p.Addr().As4()
	n := binary.BigEndian.Uint32(a[:]) | (1<<(32-p.Bits()) - 2)
	binary.BigEndian.PutUint32(a[:], n)
	return netip.AddrFrom4(a)
}

// k3d runs the program. What it says is in the error, or in the log.
func (d *Driver) k3d(ctx context.Context, env []string, args ...string) error {
	_, err := d.k3dOutput(ctx, env, args...)
	return err
}

func (d *Driver) k3dOutput(ctx context.Context, env []string, args ...string) (string, error) {
	program, err := proc.Look("k3d")
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, getK3d)
	}
	var out, said strings.Builder
	err = proc.Run(ctx, &proc.Cmd{
		Path: program, Args: args, Stdout: &out, Stderr: &said, Grace: 10 * time.Second,
		Env: slices.Concat(os.Environ(), env, []string{"DOCKER_HOST=" + d.engine.address}),
	})
	d.Log.Debug("k3d", "args", args, "said", out.String()+said.String())
	if err != nil {
		var failed *proc.Error
		if errors.As(err, &failed) {
			failed.Stderr = colours.ReplaceAllString(failed.Stderr, "")
		}
		return "", fmt.Errorf("%w\n%s", err, colours.ReplaceAllString(lastLines(out.String(), 6), ""))
	}
	return out.String(), nil
}

// colours are in what k3d says wherever it says it.
var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
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
			gone = append(gone, p.name)
		}
	}
	if gone != nil {
		return fmt.Errorf("somebody removed %s, and what was in it went with it: 'orrery down' and 'orrery up' make the environment anew", strings.Join(gone, ", "))
	}
	var g errgroup.Group
	for name, c := range s.nodes {
		if c.State == "running" || slices.Contains(m.Stopped, name) {
			continue
		}
		g.Go(func() error { return d.startContainer(ctx, c, m.Addresses[name]) })
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

// startContainer starts a node, or the load balancer, where it was. k3d gives fixed addresses to servers
// only; others would get what is free at that moment, also one that somebody else had.
func (d *Driver) startContainer(ctx context.Context, c container, address string) error {
	if c.Labels[labelRole] != "server" && address != "" {
		network := "/networks/k3d-" + clusterName(d.Spec.Name)
		if err := d.engine.call(ctx, http.MethodPost, network+"/disconnect", object{"Container": c.ID, "Force": true}, nil); err != nil && !strings.Contains(err.Error(), "is not connected") {
			return fmt.Errorf("address of %s: %w", c.name(), err)
		}
		if err := d.engine.call(ctx, http.MethodPost, network+"/connect", object{
			"Container": c.ID, "EndpointConfig": object{"IPAMConfig": object{"IPv4Address": address}},
		}, nil); err != nil {
			return fmt.Errorf("address of %s: %w", c.name(), err)
		}
	}
	if err := d.engine.post(ctx, "/containers/"+c.ID+"/start"); err != nil {
		return fmt.Errorf("start %s: %w", c.name(), err)
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
			if !ready[p.name] && !slices.Contains(m.Stopped, p.name) {
				not = append(not, p.name)
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

// Observe implements [driver.Driver].
func (d *Driver) Observe(ctx context.Context) (driver.Observation, error) {
	o := driver.Observation{Phase: driver.PhaseAbsent}
	m, known, err := d.remembered()
	if err != nil || !known {
		return o, err
	}
	s, err := d.look(ctx, m.ID)
	if err != nil {
		return o, err
	}
	o.Phase = driver.PhasePartial
	o.Endpoints = map[string]string{driver.EndpointAPI: d.api(), driver.EndpointRegistry: d.Mirror().Address}
	if _, err := os.Stat(d.kubeconfig()); err == nil {
		o.Kubeconfig = d.kubeconfig()
	}
	if !m.Made || s.theirs {
		return o, nil
	}
	d.learnRanges(ctx, &m)
	running, stopped := 0, 0
	for _, p := range places(d.Spec) {
		c, ok := s.nodes[p.name]
		n := driver.Node{
			Name: p.name, Role: driver.Role(p.node.Role), Zone: p.node.Zone, Rack: p.node.Rack, Address: m.Addresses[p.name], PodCIDR: m.Ranges[p.name],
			Running: ok && c.State == "running", Stopped: slices.Contains(m.Stopped, p.name),
		}
		if n.Running {
			running++
			n.Services = []driver.Service{{Name: nodeService, Restarts: d.restarts(ctx, c.ID)}}
			n.Address = cmp.Or(c.Networks.Networks["k3d-"+clusterName(d.Spec.Name)].IPAddress, n.Address)
		} else if n.Stopped {
			stopped++
		}
		o.Nodes = append(o.Nodes, n)
	}
	balancer := s.nodes["k3d-"+clusterName(d.Spec.Name)+"-serverlb"].State == "running"
	mirrors := s.mirror != nil && s.mirror.State == "running"
	switch {
	case running+stopped == len(o.Nodes) && running > 0 && balancer && mirrors:
		o.Phase = driver.PhaseRunning
	case running == 0 && !balancer && !mirrors && len(s.nodes) > 0:
		o.Phase = driver.PhaseStopped
	}
	return o, nil
}

// nodeService is what runs in a node, as a whole.
const nodeService = "k3s"

// restarts of a container that nobody asked for.
func (d *Driver) restarts(ctx context.Context, id string) int {
	var c struct{ RestartCount int }
	if d.engine.call(ctx, http.MethodGet, "/containers/"+id+"/json", nil, &c) != nil {
		return 0
	}
	return c.RestartCount
}

// learnRanges asks the API which addresses pods of nodes have, once.
func (d *Driver) learnRanges(ctx context.Context, m *memory) {
	if len(m.Ranges) == len(places(d.Spec)) {
		return
	}
	client, err := kube.Connect(d.kubeconfig(), kube.WithLog(d.Log))
	if err != nil {
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	nodes, err := client.List(ctx, "v1", "Node", "", "")
	if err != nil {
		return
	}
	m.Ranges = map[string]string{}
	for _, n := range nodes {
		if s, ok := n.Object["spec"].(object); ok {
			if r, ok := s["podCIDR"].(string); ok {
				m.Ranges[n.GetName()] = r
			}
		}
	}
	if err := d.remember(*m); err != nil {
		d.Log.Debug("ranges of pods", "error", err)
	}
}

// stopTime is what a node has to end in good order, beside the grace of its pods.
const stopTime = 10 * time.Second

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

func (d *Driver) stopContainer(ctx context.Context, c container) error {
	if c.State != "running" && c.State != "restarting" && c.State != "paused" {
		return nil
	}
	if err := d.engine.post(ctx, fmt.Sprintf("/containers/%s/stop?t=%d", c.ID, stopTime/time.Second)); err != nil {
		return fmt.Errorf("stop %s: %w", c.name(), err)
	}
	return nil
}

// one finds a node by its name, or by the end of it: server-0.
func (d *Driver) one(ctx context.Context, name string) (container, memory, error) {
	m, known, err := d.remembered()
	if err != nil {
		return container{}, m, err
	}
	if !known {
		return container{}, m, fmt.Errorf("there is no environment %q", d.Spec.Name)
	}
	s, err := d.look(ctx, m.ID)
	if err != nil {
		return container{}, m, err
	}
	if s.theirs {
		return container{}, m, d.notOurs()
	}
	var names []string
	for _, p := range places(d.Spec) {
		if c, ok := s.nodes[p.name]; ok && (p.name == name || strings.TrimPrefix(p.name, "k3d-"+clusterName(d.Spec.Name)+"-") == name) {
			return c, m, nil
		}
		names = append(names, p.name)
	}
	return container{}, m, failure.Usagef("no node %q; there are %s", name, strings.Join(names, ", "))
}

// StopNode implements [driver.NodeController].
func (d *Driver) StopNode(ctx context.Context, name string) error {
	c, m, err := d.one(ctx, name)
	if err != nil {
		return err
	}
	if !slices.Contains(m.Stopped, c.name()) {
		m.Stopped = append(m.Stopped, c.name())
	}
	if err := d.remember(m); err != nil { // first: it stays stopped if we die on the way
		return err
	}
	return d.stopContainer(ctx, c)
}

// StartNode implements [driver.NodeController].
func (d *Driver) StartNode(ctx context.Context, name string) error {
	c, m, err := d.one(ctx, name)
	if err != nil {
		return err
	}
	m.Stopped = slices.DeleteFunc(m.Stopped, func(n string) bool { return n == c.name() })
	if err := d.remember(m); err != nil {
		return err
	}
	if c.State == "running" {
		return nil
	}
	return d.startContainer(ctx, c, m.Addresses[c.name()])
}

// KillNode implements [driver.NodeController]. Its processes are killed and not its container: engines
// do not start again what they were asked to kill.
func (d *Driver) KillNode(ctx context.Context, name string) error {
	c, _, err := d.one(ctx, name)
	if err != nil {
		return err
	}
	if c.State != "running" {
		return fmt.Errorf("%s does not run", c.name())
	}
	if err := d.engine.run(ctx, c.ID, []string{"kill", "-9", "-1"}, io.Discard); err != nil {
		d.Log.Debug("who kills ends with the others", "error", err)
	}
	return nil
}

// Logs implements [driver.LogSource].
func (d *Driver) Logs(ctx context.Context, name, service string, follow bool, w io.Writer) error {
	c, _, err := d.one(ctx, name)
	if err != nil {
		return err
	}
	if service == nodeService {
		err := d.engine.logs(ctx, c.ID, follow, w)
		if follow && ctx.Err() != nil {
			return nil
		}
		return err
	}
	var out strings.Builder
	if err := d.engine.run(ctx, c.ID, []string{"ls", "/var/log/orrery"}, &out); err != nil {
		return err
	}
	services := []string{nodeService}
	for f := range strings.FieldsSeq(out.String()) {
		if s, ok := strings.CutSuffix(f, ".log"); ok {
			services = append(services, s)
		}
	}
	if !slices.Contains(services, service) {
		return failure.Usagef("%s has no service %q; it has %s", c.name(), service, strings.Join(services, ", "))
	}
	args := []string{"cat", "/var/log/orrery/" + service + ".log"}
	if follow {
		args = []string{"tail", "-n", "+1", "-F", args[1]}
	}
	err = d.engine.run(ctx, c.ID, args, w)
	if follow && ctx.Err() != nil {
		return nil
	}
	return err
}

// Delete implements [driver.Driver].
func (d *Driver) Delete(ctx context.Context) error {
	m, known, err := d.remembered()
	if err != nil {
		return err
	}
	if known {
		if err := d.deleteMade(ctx, m); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(d.StateDir); err != nil {
		return err
	}
	for _, e := range slices.Backward(d.effects()) {
		if err := d.Journal.Undone(e); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	return nil
}

// deleteMade removes what the engine has, without k3d where that is not there any more.
func (d *Driver) deleteMade(ctx context.Context, m memory) error {
	s, err := d.look(ctx, m.ID)
	if err != nil {
		return err
	}
	var g errgroup.Group
	if s.mirror != nil {
		g.Go(func() error { return d.engine.remove(ctx, s.mirror.ID) })
	}
	if !s.theirs {
		for _, c := range s.nodes {
			g.Go(func() error { return d.engine.remove(ctx, c.ID) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if s.theirs {
		return nil
	}
	err = d.engine.call(ctx, http.MethodDelete, "/networks/k3d-"+clusterName(d.Spec.Name), nil, nil)
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove the cluster's network: %w", err)
	}
	err = d.engine.call(ctx, http.MethodDelete, "/volumes/k3d-"+clusterName(d.Spec.Name)+"-images", nil, nil)
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove the cluster's volume: %w", err)
	}
	return nil
}

// Audit implements [driver.Driver].
func (d *Driver) Audit(ctx context.Context) ([]string, error) {
	var leaks []string
	if _, err := os.Stat(d.StateDir); err == nil {
		leaks = append(leaks, "folder "+d.StateDir)
	}
	ours, err := d.engine.containers(ctx, labelEnvironment+"="+d.Spec.Name)
	if err != nil {
		if len(leaks) == 0 { // nothing of an engine that is not there is left
			return nil, nil //nolint:nilerr // see above
		}
		return leaks, err
	}
	for _, c := range ours {
		leaks = append(leaks, "container "+c.name())
	}
	// Of a cluster that somebody else made under the name, nothing is ours.
	cluster, err := d.engine.containers(ctx, labelCluster+"="+clusterName(d.Spec.Name))
	if err != nil || len(cluster) > 0 {
		return leaks, err
	}
	networks, err := d.engine.networks(ctx, "app=k3d")
	if err != nil {
		return leaks, err
	}
	for _, n := range networks {
		if n.Name == "k3d-"+clusterName(d.Spec.Name) {
			leaks = append(leaks, "network "+n.Name)
		}
	}
	volumes, err := d.engine.volumes(ctx, "k3d.cluster="+clusterName(d.Spec.Name))
	for _, v := range volumes {
		leaks = append(leaks, "volume "+v.Name)
	}
	return leaks, err
}
