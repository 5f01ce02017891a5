package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube/kubetest"
)

// Host stands for the machine that environments are on: it holds their API servers and
// registries, and outlives every process that works on them.
type Host struct {
	control *httptest.Server

	mu       sync.Mutex
	clusters map[string]*Cluster
}

// Cluster is what one environment has outside its state directory.
type Cluster struct {
	// API is the environment's Kubernetes API.
	API *kubetest.Server

	mu      sync.Mutex
	store   http.Handler // of the registry: its images
	blobs   *blobs       // that they consist of
	server  *httptest.Server
	address string // of the registry
	nodes   []kubetest.Node
	down    map[string]bool
	faults  map[string][]*Fault
	calls   []string
	pruned  *Pruning
}

// Pruning is what a mirror was asked to free.
type Pruning struct {
	InUse  []string `json:"inUse"` // digests
	DryRun bool     `json:"dryRun"`
}

// Fault is what goes wrong in a method of the driver.
type Fault struct {
	Times int           // how often; 0 is always
	Delay time.Duration // before anything else
	Error string        // what the method says; empty lets it do its work
	Late  bool          // the work is done, and then it fails
	Leaks []string      // what Audit finds besides
}

// NewHost starts a host, until the test ends.
func NewHost(tb testing.TB) *Host {
	tb.Helper()
	h := StartHost()
	tb.Cleanup(h.Close)
	return h
}

// StartHost starts a host that whoever calls it closes.
func StartHost() *Host {
	h := &Host{clusters: map[string]*Cluster{}}
	h.control = httptest.NewServer(h)
	return h
}

// Close ends everything on the host.
func (h *Host) Close() {
	h.control.Close()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.clusters {
		c.API.Stop()
		c.stopRegistry()
	}
}

// HostVariable names the environment variable by which drivers find their host.
const HostVariable = "ORRERY_TEST_HOST"

// URL is where drivers find the host: [Options.Host], or the variable [HostVariable].
func (h *Host) URL() string { return h.control.URL }

// Cluster is that of an environment; it is there before the environment is.
func (h *Host) Cluster(environment string) *Cluster {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.clusters[environment] == nil {
		h.clusters[environment] = &Cluster{API: kubetest.NewServer(), down: map[string]bool{}, faults: map[string][]*Fault{}}
		h.clusters[environment].fill()
	}
	return h.clusters[environment]
}

// fill makes an empty registry, with referrers, as the mirror is.
func (c *Cluster) fill() {
	c.blobs = newBlobs()
	c.store = registry.New(registry.Logger(log.New(io.Discard, "", 0)), registry.WithReferrersSupport(true), registry.WithBlobHandler(c.blobs))
}

// Fail has a method of the driver ("Ensure") fail.
func (c *Cluster) Fail(method string, f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[method] = append(c.faults[method], &f)
}

// SetDown lets a node die, as one that lost its power and does not come back, or takes that
// back.
func (c *Cluster) SetDown(node string, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down[node] = down
	c.showNodes()
}

// LoseRegistry takes the registry away until the environment is brought up again; what it holds stays.
func (c *Cluster) LoseRegistry() { c.stopRegistry() }

// Registry is the host:port of the registry, "" before it was first started.
func (c *Cluster) Registry() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.address
}

// Pruned is what the mirror was last asked to free; nil before.
func (c *Cluster) Pruned() *Pruning {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pruned
}

// Calls are the methods of drivers that were called, in order.
func (c *Cluster) Calls() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

func (c *Cluster) call(method string) Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, method)
	for i, f := range c.faults[method] {
		if f.Times == 0 {
			return *f
		}
		if f.Times--; f.Times == 0 {
			c.faults[method] = slices.Delete(c.faults[method], i, i+1)
		}
		return *f
	}
	return Fault{}
}

func (c *Cluster) startRegistry(address string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.server != nil {
		return nil
	}
	var l net.Listener
	err := whenFree(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		return fmt.Errorf("the test's registry: %w", err)
	}
	server := httptest.NewUnstartedServer(c.store)
	server.Listener.Close()
	server.Listener = l
	server.Start()
	c.server, c.address = server, l.Addr().String()
	return nil
}

// whenFree waits a moment for a port that somebody took between its choice and now: on a machine
// where many tests run, a connection to elsewhere may have it for its own end.
func whenFree(listen func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return check.Until(ctx, check.Pause{First: 20 * time.Millisecond}, func() error {
		err := listen()
		if err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			err = check.Final(err)
		}
		return err
	})
}

func (c *Cluster) stopRegistry() {
	c.mu.Lock()
	server := c.server
	c.server = nil
	c.mu.Unlock()
	if server != nil {
		server.CloseClientConnections()
		server.Close()
	}
}

// showNodes tells the API which nodes there are, and which of them live.
func (c *Cluster) showNodes() {
	nodes := slices.Clone(c.nodes)
	for i := range nodes {
		nodes[i].Ready = nodes[i].Ready && !c.down[nodes[i].Name]
	}
	c.API.SetNodes(nodes)
}

// reset is what is left of an environment on its host after it was deleted: nothing.
func (c *Cluster) reset() {
	c.API.Stop()
	c.stopRegistry()
	c.API.Reset()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fill()
	c.nodes, c.down, c.address = nil, map[string]bool{}, ""
}

// order is what a driver asks of its host.
type order struct {
	Method   string          `json:"method,omitempty"`
	Registry string          `json:"registry,omitempty"` // start it at this address
	API      string          `json:"api,omitempty"`      // likewise
	Nodes    []kubetest.Node `json:"nodes,omitempty"`    // that the API shows
	Stop     bool            `json:"stop,omitempty"`
	Reset    bool            `json:"reset,omitempty"`
	Prune    *Pruning        `json:"prune,omitempty"`
	Mend     []string        `json:"mend,omitempty"`
}

// report is what the host answers.
type report struct {
	Fault      Fault    `json:"fault"`
	Error      string   `json:"error,omitempty"`
	Registry   string   `json:"registry,omitempty"` // address, while it is up
	API        string   `json:"api,omitempty"`      // likewise
	Down       []string `json:"down,omitempty"`     // nodes
	Kubeconfig string   `json:"kubeconfig,omitempty"`
	Mended     []string `json:"mended,omitempty"`
}

// ServeHTTP implements [http.Handler] for drivers: an order to the path of an environment.
func (h *Host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var o order
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := h.Cluster(strings.Trim(r.URL.Path, "/")).carryOut(o)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func (c *Cluster) carryOut(o order) (r report) {
	fail := func(err error) {
		if err != nil {
			r.Error = err.Error()
		}
	}
	switch {
	case o.Method != "":
		r.Fault = c.call(o.Method)
	case o.Registry != "":
		fail(c.startRegistry(o.Registry))
	case o.API != "":
		fail(whenFree(func() error { return c.API.Listen(o.API) }))
	case o.Stop:
		c.API.Stop()
		c.stopRegistry()
	case o.Reset:
		c.reset()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.Prune != nil {
		c.pruned = o.Prune
	}
	if o.Mend != nil {
		r.Mended = c.blobs.mend(o.Mend)
	}
	if o.Nodes != nil {
		c.nodes = o.Nodes
		c.showNodes()
	}
	if c.server != nil {
		r.Registry = c.address
	}
	if c.API.Running() {
		r.API, r.Kubeconfig = c.API.Address(), string(c.API.Kubeconfig())
	}
	for _, name := range slices.Sorted(maps.Keys(c.down)) {
		if c.down[name] {
			r.Down = append(r.Down, name)
		}
	}
	return r
}
