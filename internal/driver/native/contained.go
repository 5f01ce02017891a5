package native

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/spec"
)

// Contained is a node in a machine that somebody else made, such as a privileged container. It
// has no supervisor: it finds the others by a token and an address, and looks after itself. What
// a control plane is made of is the same as on nodes that the driver makes.
type Contained struct {
	// Environment names the cluster in certificates. Who joins is told it.
	Environment string
	// State is a folder on a real file system, kept over restarts.
	State   string
	Name    string
	Address netip.Addr
	Server  bool
	Zone    string
	Rack    string
	Labels  []string // NAME=VALUE
	Names   []string // by which its API server is called too
	// What a server that is the first decides for all.
	Pods, Services netip.Prefix
	DNS            netip.Addr
	Sandbox        string
	// Unconnected leaves pods without a network, Unproxied Services without kube-proxy: a
	// network that is deployed brings them.
	Unconnected, Unproxied bool
	// Join is the host of a server that is asked to be let in; empty for the first one.
	Join string
	// Token is what all nodes of a cluster know, and nobody else.
	Token string
	// Hosts are containerd's hosts.toml files by the names of registries, "_default" for all others.
	Hosts map[string][]byte
	// Grace is how long containers have to end when the node does.
	Grace time.Duration
	// Tell is called with what has been reached.
	Tell func(Milestone)
	Log  *slog.Logger
}

// Milestone of a start.
type Milestone string

// Milestones in the order in which they are reached; agents have no server.
const (
	MilestoneRuntime    Milestone = "runtime"    // containers can be run
	MilestoneServer     Milestone = "server"     // its API server was started
	MilestoneRegistered Milestone = "registered" // the API has its Node
	MilestoneReady      Milestone = "ready"      // all that it has runs
)

// contained is the cluster as such a node knows it.
type contained struct {
	cluster
	Unconnected bool `json:"unconnected,omitempty"`
	Unproxied   bool `json:"unproxied,omitempty"`
}

// settings are kept beside cluster.json.
func (p paths) settings() string { return p.join("contained.json") }

// Kubeconfig of the administrator on a server, once it has begun.
func (c Contained) Kubeconfig() string { return paths(c.State).kubeconfig() }

// Run is the life of the node: it returns when ctx ends or SIGTERM comes, and with an error when
// the node cannot be.
func (c Contained) Run(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	p := paths(c.State)
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return err
	}
	all, fresh, err := c.know(ctx, p)
	if err != nil {
		return err
	}
	n, _ := all.node(c.Name)
	if err := c.lay(p, n, all); err != nil {
		return err
	}
	layers, err := newLayerStore(p, c.Log)
	if err != nil {
		return err
	}
	defer layers.close()
	if err := errors.Join(layers.recover(ctx), layers.listen(c.Name)); err != nil {
		return err
	}
	net := allotted{unconnected: all.Unconnected, unproxied: all.Unproxied}
	config := initConfig{Services: nodeServices(all.cluster, n, net)}
	if fresh && c.Join != "" {
		config.joinExisting()
	}
	in := newServiceSet(config.Services, []string{
		"PATH=" + strings.TrimSuffix(nodeBin, "/") + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "HOSTNAME=" + c.Name,
	}, reporter(c.Log))
	in.start()
	go in.reap()
	defer func() {
		in.hold("kubelet")
		if c.Grace > 0 {
			end, cancel := context.WithTimeout(context.Background(), c.Grace)
			defer cancel()
			if left := (drainer{folder: taskFolder, kill: syscall.Kill, exec: in.execIn}).drain(end, c.Grace); len(left) > 0 {
				c.Log.Warn("pods had not ended in time", "pods", left)
			}
		}
		in.stop(stopTime)
	}()
	failed := make(chan error, 4)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run := func(f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				failed <- err
			}
		})
	}
	if c.Server {
		j := &joins{paths: p, all: all, self: n, token: c.Token, log: c.Log}
		run(j.serve)
	} else {
		run(func(ctx context.Context) error { return c.balance(ctx, p, all.cluster) })
	}
	registered := make(chan struct{})
	run(func(ctx context.Context) error { return c.follow(ctx, p, all, registered) })
	run(func(ctx context.Context) error { return c.announce(ctx, p, all.cluster, n, registered) })
	run(func(ctx context.Context) error { return rotate(ctx, p, c.Log) })
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// know finds out what cluster this is, and gets or makes the node's credentials and configuration.
// fresh: its member of etcd has no data yet.
func (c Contained) know(ctx context.Context, p paths) (all contained, fresh bool, err error) {
	self := node{Name: c.Name, Role: driver.RoleAgent, Zone: c.Zone, Rack: c.Rack, Address: c.Address, Labels: c.Labels}
	if c.Server {
		self.Role = driver.RoleServer
	}
	fresh = c.Server && !exists(p.etcd(self))
	have, err := loadContained(p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return all, false, err
	}
	known := err == nil
	switch was, _ := have.node(c.Name); {
	case known && c.Server && !fresh:
		if was.Address != c.Address {
			return all, false, fmt.Errorf("this server was %s and is %s now, and the members of etcd know each other by address: "+
				"give it its address again, and the cluster's network a subnet of its own, so that it stays", was.Address, c.Address)
		}
		all, self.PodCIDR = have, was.PodCIDR
	case c.Join == "":
		if !c.Server {
			return all, false, errors.New("an agent needs the address of a server (K3S_URL)")
		}
		all = contained{cluster: cluster{
			Version: clusterVersion, Environment: c.Environment, Pods: c.Pods, Services: c.Services, ClusterDNS: c.DNS,
			APIService: c.Services.Addr().Next(), Plugin: spec.PluginPTP, Sandbox: c.Sandbox,
		}, Unconnected: c.Unconnected, Unproxied: c.Unproxied}
	default:
		if known {
			self.PodCIDR = was.PodCIDR
		}
		if all, err = c.join(ctx, p, have.servers(), self, fresh); err != nil {
			return all, false, err
		}
	}
	// What listens for this node alone.
	all.Gateway, all.API, all.Names = netip.AddrFrom4([4]byte{127, 0, 0, 1}), apiPort, c.Names
	all.Nodes = append(others(all.Nodes, c.Name), self)
	return all, fresh, c.write(p, all)
}

func others(nodes []node, name string) []node {
	var r []node
	for _, n := range nodes {
		if n.Name != name {
			r = append(r, n)
		}
	}
	return r
}

// write makes credentials (of a server; an agent got them) and configuration of this node.
func (c Contained) write(p paths, all contained) error {
	mine := all.cluster
	n, _ := all.node(c.Name)
	mine.Nodes = []node{n}
	net := allotted{unconnected: all.Unconnected, unproxied: all.Unproxied}
	if c.Server {
		if err := credentials(&issuer{now: time.Now}, p, mine, net); err != nil {
			return err
		}
	}
	if _, err := configure(p, mine, net); err != nil {
		return err
	}
	certs := p.nodeEtc(c.Name, "containerd", "certs.d")
	if err := os.RemoveAll(certs); err != nil {
		return err
	}
	for host, content := range c.Hosts {
		if _, err := writeFile(filepath.Join(certs, filepath.Base(host), "hosts.toml"), content); err != nil {
			return err
		}
	}
	return all.save(p)
}

func (c contained) save(p paths) error {
	if _, err := writeJSON(p.cluster(), c.cluster); err != nil {
		return err
	}
	_, err := writeJSON(p.settings(), c)
	return err
}

func loadContained(p paths) (contained, error) {
	var c contained
	b, err := os.ReadFile(p.settings())
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("%s is damaged: %w", p.settings(), err)
	}
	return c, nil
}

// balance passes what this agent asks the API on to servers that answer.
func (c Contained) balance(ctx context.Context, p paths, all cluster) error {
	pem, err := os.ReadFile(p.nodeEtc(c.Name, "kubernetes", "pki", "ca.crt"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	var backends []string
	for _, s := range all.servers() {
		backends = append(backends, backendOf(s))
	}
	var d net.Dialer
	b := newBalancer(backends, func(ctx context.Context, address string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", address)
	}, c.Log)
	l, err := listenLocal(apiPort, "port")
	if err != nil {
		return err
	}
	go b.serve(l)
	b.run(ctx, roots)
	return l.Close()
}

// announce tells of each milestone when it is reached, and gives the API what is the servers' to give.
func (c Contained) announce(ctx context.Context, p paths, all cluster, n node, registered <-chan struct{}) error {
	if err := awaitTarget(ctx, containerdSocket, ""); err != nil {
		return err
	}
	c.Tell(MilestoneRuntime)
	if c.Server {
		// Before it answers: when all servers start anew, others have to be started for that.
		c.Tell(MilestoneServer)
		if err := awaitTarget(ctx, apiURL(all, n)+readyPath, ""); err != nil {
			return err
		}
		if err := c.prepareAPI(ctx, p); err != nil {
			return err
		}
	}
	select {
	case <-registered:
	case <-ctx.Done():
		return nil
	}
	c.Tell(MilestoneRegistered)
	if c.Server {
		m := &machine{node: n, paths: p, cluster: all, log: c.Log}
		m.complete(ctx)
	}
	c.Tell(MilestoneReady)
	return nil
}

func (c Contained) prepareAPI(ctx context.Context, p paths) error {
	a, err := newAPI(p, apiPort)
	if err != nil {
		return err
	}
	defer a.close()
	return check.Until(ctx, check.Pause{First: 200 * time.Millisecond}, func() error {
		if err := a.grantKubeletAccess(ctx); err != nil {
			return err
		}
		for _, o := range unservedSigners() {
			if err := a.put(ctx, o); err != nil {
				return err
			}
		}
		return nil
	})
}

// reporter writes what PID 1 of other nodes would tell its supervisor to the log.
func reporter(log *slog.Logger) io.Writer {
	r, w := io.Pipe()
	go func() {
		s := bufio.NewScanner(r)
		for s.Scan() {
			var e initEvent
			if json.Unmarshal(s.Bytes(), &e) == nil && e.Service != "" {
				log.Info("service "+e.State, "service", e.Service, "pid", e.PID, "restarts", e.Restarts, "detail", e.Detail)
			}
		}
	}()
	return w
}

// rotate keeps logs of services small.
func rotate(ctx context.Context, p paths, log *slog.Logger) error {
	t := time.NewTicker(10 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			rotateLogs(p, log)
		case <-ctx.Done():
			return nil
		}
	}
}
