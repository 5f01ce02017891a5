package native

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/spec"
)

// clusterVersion is written to cluster.json; a newer one is refused.
const clusterVersion = 1

const (
	apiPort      = 6443 // of every API server and of the balancer on the fabric
	registryPort = 5000 // of the mirror on the fabric
	// Where monitoring asks on each node, beside the usual ports of kubelet and controllers.
	etcdMetricsPort  = 2381
	proxyMetricsPort = 10249
	domain           = "cluster.local"
)

// SandboxImage is what every pod's sandbox runs where no digest of it is known, see
// [Options]. It is pulled from the mirror; its version goes with the sandbox of
// infra/native/distribution.yaml.
const SandboxImage = mirror.Host + "/pause:1"

// cluster is what the supervisor knows of an environment: cluster.json, written by the CLI.
type cluster struct {
	Version     int          `json:"version"`
	Environment string       `json:"environment"`
	Fabric      netip.Prefix `json:"fabric"`
	Gateway     netip.Addr   `json:"gateway"`
	Pods        netip.Prefix `json:"pods"`
	Services    netip.Prefix `json:"services"`
	ClusterDNS  netip.Addr   `json:"clusterDNS"`
	APIService  netip.Addr   `json:"apiService"`
	API         int          `json:"api"`      // port on 127.0.0.1
	Registry    int          `json:"registry"` // port on 127.0.0.1
	Plugin      string       `json:"plugin"`
	Sandbox     string       `json:"sandbox,omitempty"` // image; as Options has it
	Egress      bool         `json:"egress"`
	Fast        bool         `json:"fast"` // no fsync
	Memory      int64        `json:"memory,omitempty"`
	Nodes       []node       `json:"nodes"`
	// Names by which API servers are called too.
	Names []string `json:"names,omitempty"`
}

// node is one machine of the cluster.
type node struct {
	Name    string       `json:"name"`
	Role    driver.Role  `json:"role"`
	Zone    string       `json:"zone"`
	Rack    string       `json:"rack"`
	Address netip.Addr   `json:"address"`
	PodCIDR netip.Prefix `json:"podCIDR"`
	Index   int          `json:"index"`
	// Labels, NAME=VALUE, that its kubelet gives itself beside those of its place.
	Labels []string `json:"labels,omitempty"`
}

func (n node) server() bool { return n.Role == driver.RoleServer }

// newCluster derives the cluster from a validated spec.
func newCluster(e spec.Environment) (cluster, error) {
	c := cluster{
		Version: clusterVersion, Environment: e.Name,
		Gateway: e.Gateway(), ClusterDNS: e.ClusterDNS(), APIService: e.APIServiceIP(),
		API: e.Ports.API, Registry: e.Ports.Registry,
		Plugin: e.Network.Plugin, Egress: e.Network.Egress,
		Fast: e.Durability == spec.DurabilityFast, Memory: e.MemoryBytes(),
	}
	for _, p := range []struct {
		to   *netip.Prefix
		from string
	}{{&c.Fabric, e.Network.Nodes}, {&c.Pods, e.Network.Pods}, {&c.Services, e.Network.Services}} {
		var err error
		if *p.to, err = netip.ParsePrefix(p.from); err != nil {
			return c, fmt.Errorf("network of environment %q: %w", e.Name, err)
		}
	}
	for _, n := range e.Topology() {
		c.Nodes = append(c.Nodes, node{
			Name: n.Name, Role: driver.Role(n.Role), Zone: n.Zone, Rack: n.Rack,
			Address: n.Address, PodCIDR: n.PodCIDR, Index: n.Index,
		})
	}
	return c, nil
}

func (c cluster) servers() []node {
	var s []node
	for _, n := range c.Nodes {
		if n.server() {
			s = append(s, n)
		}
	}
	return s
}

func (c cluster) node(name string) (node, bool) {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return node{}, false
}

func (c cluster) role(name string) driver.Role {
	n, _ := c.node(name)
	return n.Role
}

// cgroupRoot marks the environment, relative to a hierarchy's mount, and holds everything in it
// unless it has a scope.
func cgroupRoot(env string) string { return "/orrery/" + env }

// paths knows where things live in a state directory.
type paths string

func (p paths) join(elem ...string) string {
	return filepath.Join(append([]string{string(p)}, elem...)...)
}
func (p paths) cluster() string        { return p.join("cluster.json") }
func (p paths) kubeconfig() string     { return p.join("kubeconfig") }
func (p paths) executable() string     { return p.join("bin", "orrery") }
func (p paths) distribution() string   { return p.join("dist", "bin") }
func (p paths) lock() string           { return p.join("supervisor.lock") }
func (p paths) socket() string         { return p.join("supervisor.sock") }
func (p paths) served() string         { return p.join("served") } // once the API was ready
func (p paths) stopped() string        { return p.join("stopped") }
func (p paths) pki(name string) string { return p.join("pki", name) }
func (p paths) log(name string) string { return p.join("log", name+".log") }
func (p paths) registrySocket() string { return p.join("registry.sock") }
func (p paths) mirrorPassword() string { return p.pki("mirror-password") }
func (p paths) layers() string         { return p.join("layers") }
func (p paths) layer(chain string) string {
	return p.join("layers", strings.TrimPrefix(chain, "sha256:"))
}
func (p paths) node(n string) string    { return p.join("nodes", n) }
func (p paths) nodeVar(n string) string { return p.join("nodes", n, "var") }
func (p paths) etcd(n node) string { // the data of a member; absent before its first start
	return p.join("nodes", n.Name, "var", "lib", "etcd", "member")
}
func (p paths) nodeStop(n string) string { return p.join("nodes", n, "stopped") }
func (p paths) layerSocket(n string) string {
	return p.join("nodes", n, "layers.sock")
}
func (p paths) nodeInit(n string) string { return p.join("nodes", n, "init.json") }
func (p paths) nodeLog(n, service string) string {
	return p.join("nodes", n, "log", service+".log")
}

func (p paths) nodeEtc(n string, elem ...string) string {
	return filepath.Join(append([]string{p.node(n), "etc"}, elem...)...)
}

// loadCluster reads cluster.json; os.ErrNotExist when there is none.
func loadCluster(p paths) (cluster, error) {
	var c cluster
	b, err := os.ReadFile(p.cluster())
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("%s is damaged: %w; 'orrery up' writes it anew, 'orrery down' removes the environment", p.cluster(), err)
	}
	if c.Version > clusterVersion {
		return c, fmt.Errorf("%s has version %d, this orrery knows %d: use the orrery that wrote it", p.cluster(), c.Version, clusterVersion)
	}
	return c, nil
}

// writeFile replaces path atomically with mode 0600, and only when the content differs.
// Folders are made with mode 0700.
func writeFile(path string, content []byte) (changed bool, err error) {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(content) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return false, err
	}
	if err := atomicfile.Write(path, content, 0o600); err != nil {
		return false, fmt.Errorf("write %s: %w", path, err)
	}
	return true, nil
}

func writeJSON(path string, v any) (bool, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return false, err
	}
	return writeFile(path, append(b, '\n'))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
