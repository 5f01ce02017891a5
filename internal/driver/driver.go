package driver

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/mirror/store"
)

// Phase of a whole environment, as seen and not as remembered.
type Phase string

const (
	PhaseAbsent  Phase = "absent"  // nothing of it exists
	PhasePartial Phase = "partial" // something exists, but it neither runs nor was stopped properly
	PhaseStopped Phase = "stopped" // state is kept, nothing runs
	PhaseRunning Phase = "running" // its supervisor and all nodes run (Ready is another question)
)

// Role of a node.
type Role string

const (
	RoleServer Role = "server" // control plane and workloads
	RoleAgent  Role = "agent"  // workloads only
)

// Service is a supervised process of a node.
type Service struct {
	Name     string `json:"name"`
	PID      int    `json:"pid,omitempty"` // in the host's PID namespace; 0 when not running
	Restarts int    `json:"restarts"`
}

// Node is one machine of the cluster.
type Node struct {
	Name     string    `json:"name"`
	Role     Role      `json:"role"`
	Zone     string    `json:"zone"`
	Rack     string    `json:"rack"`
	Address  string    `json:"address"`
	PodCIDR  string    `json:"podCIDR"`
	Running  bool      `json:"running"`
	Stopped  bool      `json:"stopped"` // by a person, so it is not restarted
	Services []Service `json:"services,omitempty"`
}

// Names of endpoints.
const (
	EndpointAPI      = "api"      // https URL of the Kubernetes API
	EndpointRegistry = "registry" // host:port of the mirror
)

// Observation is what really exists.
type Observation struct {
	Phase      Phase             `json:"phase"`
	Nodes      []Node            `json:"nodes,omitempty"`
	Endpoints  map[string]string `json:"endpoints,omitempty"`  // name → URL or host:port on 127.0.0.1
	Kubeconfig string            `json:"kubeconfig,omitempty"` // path of the admin kubeconfig
	// Full says which disk of the host is full and what to do. Nodes cannot tell: with nothing written,
	// their conditions stay as they were.
	Full string `json:"full,omitempty"`
}

// Driver makes one environment's Kubernetes API. Every method may be called at any
// time, from a process that did not make the environment, on a half-made one.
type Driver interface {
	// Preflight looks at the host and changes nothing. Each condition is probed once:
	// Failed refuses, Skipped is a warning.
	Preflight(ctx context.Context) []check.Condition
	// Prepare makes what images are pushed to (the mirror), and starts no node.
	Prepare(ctx context.Context) error
	// Ensure returns when the Kubernetes API answers. Idempotent; starts what is stopped.
	Ensure(ctx context.Context) error
	// Ready returns when every node that should run is Ready.
	Ready(ctx context.Context) error
	// Observe looks at reality. An absent environment is not an error.
	Observe(ctx context.Context) (Observation, error)
	// Stop ends all processes and keeps state. Start is Ensure after Stop.
	Stop(ctx context.Context) error
	// Delete removes everything, also half-made things, goes on past errors and joins them.
	Delete(ctx context.Context) error
	// Audit looks for leftovers of a deleted environment: processes, namespaces, mounts,
	// links, cgroups, files, listeners. Each leak is one line for a person.
	Audit(ctx context.Context) ([]string, error)
}

// NodeController is implemented by drivers that can fault single nodes.
type NodeController interface {
	StopNode(ctx context.Context, name string) error  // gracefully; stays stopped
	StartNode(ctx context.Context, name string) error // after StopNode
	KillNode(ctx context.Context, name string) error  // power loss; it comes back by itself
}

// Mirrored is implemented by drivers whose environments have a mirror of their own.
type Mirrored interface {
	// Mirror is where images are pushed to, and how. It may not run yet.
	Mirror() mirror.Mirror
	// MirrorInside is where pods reach it, HOST:PORT, to read.
	MirrorInside() string
	// PruneMirror frees what no tag of the running mirror reaches and that is not in use, see
	// [store.Store.Prune]; pushes wait meanwhile. inUse are digests.
	PruneMirror(ctx context.Context, inUse []string, dryRun bool) (store.Pruned, error)
	// MendMirror has the running mirror forget which of these blobs are damaged on its disk, see
	// [store.Store.Mend], so that it takes them again.
	MendMirror(ctx context.Context, digests []string) (removed []string, err error)
}

// Issuer is implemented by drivers that can make keys for people.
type Issuer interface {
	// Issue makes a kubeconfig with a new key to everything in the cluster, which nothing keeps.
	// It ends after life, and when the cluster takes its rights away. The API has to answer.
	Issue(ctx context.Context, life time.Duration) (kubeconfig []byte, ends time.Time, err error)
}

// LogSource is implemented by drivers that keep the logs of node services.
type LogSource interface {
	// Logs copies the log of node/service to w; follow goes on until ctx ends.
	Logs(ctx context.Context, node, service string, follow bool, w io.Writer) error
}

// FlowServer is where the flows that one node saw can be read.
type FlowServer struct {
	Node    string `json:"node"`    // "" when it knows the flows of all nodes
	Address string `json:"address"` // as Hubble takes it: unix:///path or host:port
}

// FlowSource is implemented by drivers whose network may record which packets went where
// and which were dropped (https://docs.cilium.io/en/stable/observability/hubble/).
type FlowSource interface {
	// Flows returns the path of the program hubble on this machine and the servers of the
	// nodes that run. ErrNoFlows, with the reason, when the network of this environment
	// records none.
	Flows(ctx context.Context) (program string, servers []FlowServer, err error)
}

// ErrNoFlows says that the environment's network records no flows.
var ErrNoFlows = errors.New("no flows are recorded")

// Guest is implemented by drivers of clusters that somebody else made.
type Guest interface {
	// Credentials is a kubeconfig of that cluster, also before there is an environment.
	Credentials(ctx context.Context) ([]byte, error)
}

// Effect is something that exists outside our process.
type Effect struct {
	Kind string            `json:"kind"` // "directory", "cgroup", "process", "link", "kubeconfig", …
	ID   string            `json:"id"`   // a path, a name or pid@starttime
	Info map[string]string `json:"info,omitempty"`
}

// Journal is told of every effect before it is made and after it is gone.
type Journal interface {
	Begin(Effect) error // returns after fsync
	Undone(Effect) error
}
