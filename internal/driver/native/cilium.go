package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/orrery-dev/orrery/internal/beneath"
)

// Where Cilium's parts are inside a node.
const (
	ciliumLib    = "/var/lib/cilium" // bpf in it has the sources of the BPF programs
	ciliumRun    = "/run/cilium"
	ciliumCgroup = ciliumRun + "/cgroupv2"
	llvmFolder   = "/opt/llvm"
	objectCache  = "/var/cache/clang"
	bpfFolder    = "/sys/fs/bpf"
)

// Ports on a node's address, where monitoring asks.
const (
	ciliumAgentMetrics    = 9962
	ciliumOperatorMetrics = 9963
	hubbleMetrics         = 9965
)

// Groups that the certificates of agents and operators name, see ciliumaccess.go.
const (
	ciliumAgents    = "orrery:cilium-agents"
	ciliumOperators = "orrery:cilium-operators"
)

// cilium connects pods with BPF programs, which also are the proxy of Services and enforce
// network policies: there is no kube-proxy, and of nftables only package hosttraffic. Agent and operator
// are services of the node like the kubelet. Nodes are neighbours on the fabric, so packets are
// routed between them as they are; a node's agent sets the routes to the others' pods.
type cilium struct{}

func (cilium) programs() []string {
	return []string{"bin/cni/cilium-cni", "bin/cni/loopback",
		"bin/cilium-agent", "bin/cilium-operator", "bin/cilium-dbg", "bin/cilium-health-responder",
		"bpf/bpf_lxc.c", "crds/ciliumnodes.yaml", "llvm/bin/clang"}
}

func (cilium) users(n node) []user {
	u := []user{{"cilium-agent", leaf{cn: "orrery:cilium-agent:" + n.Name, orgs: []string{ciliumAgents}, client: true}}}
	if n.server() {
		u = append(u, user{"cilium-operator", leaf{cn: "orrery:cilium-operator:" + n.Name, orgs: []string{ciliumOperators}, client: true}})
	}
	return u
}

func (cilium) files(c cluster, n node) (map[string][]byte, error) {
	files := map[string][]byte{}
	configs := map[string]map[string]string{"cilium-agent": ciliumAgentConfig(c, n)}
	if n.server() {
		configs["cilium-operator"] = ciliumOperatorConfig(c, n)
	}
	for name, config := range configs {
		// JSON is YAML; keys come out sorted.
		b, err := json.MarshalIndent(config, "", "  ")
		if err != nil {
			return nil, err
		}
		files["kubernetes/"+name+".yaml"] = append(b, '\n')
	}
	return files, nil
}

// routes: the agent's business.
func (cilium) routes(cluster, node) []route { return nil }

func (cilium) services(c cluster, n node) []service {
	environment := []string{
		"PATH=" + nodeBin[:len(nodeBin)-1] + ":/run/tools", // clang is the one in front of llvmFolder's
		"K8S_NODE_NAME=" + n.Name, "CILIUM_K8S_NAMESPACE=" + ciliumNamespace,
		// There is an agent for each node of a machine: memory matters more than its little work.
		"GOGC=35",
	}
	// Both give up, or wait for many seconds, when what they want to watch does not exist yet
	// or is not theirs to see yet.
	wait := apiURL(c, n) + "/apis/cilium.io/v2/ciliumnodes?limit=1"
	s := []service{{
		Name: "cilium-agent", Env: environment, Wait: wait, WaitAs: "cilium-agent", Pins: bpfFolder,
		Args: []string{nodeBin + "cilium-agent", "--config=/etc/kubernetes/cilium-agent.yaml"},
	}}
	if n.server() {
		s = append(s, service{
			Name: "cilium-operator", Env: environment, Wait: wait, WaitAs: "cilium-operator",
			Args: []string{nodeBin + "cilium-operator", "--config=/etc/kubernetes/cilium-operator.yaml"},
		})
	}
	return s
}

// controllerFlags: ranges are ours to give, see ptp.
func (cilium) controllerFlags(c cluster) []string { return ptp{}.controllerFlags(c) }

func (cilium) assignsRanges() bool { return true }

func (cilium) probes(h host) []probe { return h.bpfProbes() }

func (cilium) datapath(p paths) *datapath {
	return &datapath{Sources: p.join("dist", "bpf"), LLVM: p.join("dist", "llvm"), Objects: p.join("dist", "objects")}
}

func (cilium) failure(service, log string) (string, bool) {
	if service != "cilium-agent" && service != "cilium-operator" {
		return "", false
	}
	return lastFatal(log)
}

// ready asks the agent of the node, whose files are seen through its PID 1.
func (cilium) ready(ctx context.Context, pid int) error {
	// A link at that place would lead to a socket of the host.
	at, err := beneath.Path("/proc/"+strconv.Itoa(pid)+"/root", ciliumRun+"/cilium.sock")
	if err != nil {
		return fmt.Errorf("the Cilium agent does not answer: %w", err)
	}
	defer at.Close()
	return agentStatus(ctx, fmt.Sprintf("/proc/self/fd/%d", at.Fd()))
}

// agentStatus is nil when the agent calls itself well and has loaded the programs of the node
// itself, which is the first that it compiles.
func agentStatus(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	ask := func(path string, into any) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://cilium/v1/"+path, nil)
		if err != nil {
			return err
		}
		req.Header.Set("brief", "true")
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("the Cilium agent does not answer: %w", err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(into); err != nil {
			return fmt.Errorf("the Cilium agent's status (%s): %w", resp.Status, err)
		}
		return nil
	}
	var health struct {
		Cilium struct{ State, Msg string } `json:"cilium"`
	}
	if err := ask("healthz", &health); err != nil {
		return err
	}
	if s := health.Cilium; s.State != "Ok" {
		return fmt.Errorf("the Cilium agent is not ready: %s: %s", s.State, s.Msg)
	}
	var endpoints []struct {
		Status struct {
			State    string `json:"state"`
			Identity struct {
				ID int `json:"id"`
			} `json:"identity"`
		} `json:"status"`
	}
	if err := ask("endpoint", &endpoints); err != nil {
		return err
	}
	for _, e := range endpoints {
		if e.Status.Identity.ID != hostIdentity {
			continue
		}
		if e.Status.State != "ready" {
			return fmt.Errorf("the Cilium agent is compiling and loading the node's BPF programs (%s)", e.Status.State)
		}
		return nil
	}
	return errors.New("the Cilium agent has not begun with the node's BPF programs")
}

// hostIdentity is Cilium's number for the node itself (reserved:host).
const hostIdentity = 1
