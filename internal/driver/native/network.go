package native

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/orrery-dev/orrery/internal/spec"
)

// network connects the pods of a cluster. A plugin says what it puts into a node; the
// supervisor lays addresses and routes, PID 1 writes files and runs services.
type network interface {
	// programs that must be there, relative to the distribution's folder (dist).
	programs() []string
	// users are who the plugin's services of the node are to the API.
	users(n node) []user
	// files of the node, by path below its etc folder: cni/net.d/… and kubernetes/….
	files(c cluster, n node) (map[string][]byte, error)
	// routes of the node beside the default one.
	routes(c cluster, n node) []route
	// services of the node, beside those that every node has.
	services(c cluster, n node) []service
	// controllerFlags are added to the controller manager's.
	controllerFlags(c cluster) []string
	// datapath is what BPF programs need of a node; nil without them.
	datapath(p paths) *datapath
	// objects are in the API before the plugin's services ask for them.
	objects(p paths) ([]object, error)
	// assignsRanges: nodes are told their range of pod addresses through the API.
	assignsRanges() bool
	// probes of the host that are about this plugin.
	probes(h host) []probe
	// failure reads why a service of the plugin ended from the end of its log; "" when it does
	// not say. lasting: another try ends the same way.
	failure(service, log string) (why string, lasting bool)
	// ready is nil when the plugin works on the node whose PID 1 has that PID on the host.
	ready(ctx context.Context, pid int) error
}

// user of the API: a pair of files below pki and a kubeconfig, all of that name.
type user struct {
	name string
	leaf leaf
}

// route sends a range to another node, or refuses it: without Via, whoever sends there is told
// at once that nobody is.
type route struct {
	To  netip.Prefix
	Via netip.Addr
}

// networks is the registry of plugins: adding one is a line here.
var networks = map[string]network{spec.PluginPTP: ptp{}, spec.PluginCilium: cilium{}}

// ptp gives each pod a point-to-point link, each node a /24 that the other nodes have a
// route to, and Services through kube-proxy. It needs no bridge and so no br_netfilter.
type ptp struct{}

func (ptp) programs() []string {
	return []string{"bin/kube-proxy", "bin/cni/ptp", "bin/cni/host-local", "bin/cni/loopback", "bin/cni/portmap"}
}

func (ptp) users(node) []user {
	return []user{{"kube-proxy", leaf{cn: "system:kube-proxy", client: true}}}
}

func (ptp) datapath(paths) *datapath              { return nil }
func (ptp) objects(paths) ([]object, error)       { return nil, nil }
func (ptp) assignsRanges() bool                   { return false }
func (ptp) probes(host) []probe                   { return nil }
func (ptp) failure(string, string) (string, bool) { return "", false }
func (ptp) ready(context.Context, int) error      { return nil }

func (ptp) files(c cluster, n node) (map[string][]byte, error) {
	type obj = map[string]any
	// Addresses are handed out in /run, so that they are all free again after a reboot.
	conf, err := json.MarshalIndent(obj{
		"cniVersion": "1.0.0", "name": "orrery",
		"plugins": []obj{
			{"type": "ptp", "ipMasq": false, "mtu": fabricMTU, "ipam": obj{
				"type": "host-local", "dataDir": "/run/cni/ipam",
				"ranges": [][]obj{{{"subnet": n.PodCIDR.String()}}},
				"routes": []obj{{"dst": "0.0.0.0/0"}},
			}},
			{"type": "portmap", "capabilities": obj{"portMappings": true}, "backend": "nftables"},
		},
	}, "", "  ")
	return map[string][]byte{"cni/net.d/10-orrery.conflist": conf, "kubernetes/kube-proxy.yaml": kubeProxyConfig(c, n)}, err
}

// routes also refuses what is left of the node's own range: pods have routes of their own,
// and an address without one belongs to a pod that has gone. Over the default route such
// packets would vanish, and an API server that starts waits 10 s for the extension API
// servers that ran before a stop before it calls itself ready.
func (ptp) routes(c cluster, n node) []route {
	r := []route{{To: n.PodCIDR}}
	for _, other := range c.Nodes {
		if other.Name != n.Name {
			r = append(r, route{To: other.PodCIDR, Via: other.Address})
		}
	}
	return r
}

func (ptp) services(c cluster, n node) []service {
	return []service{{
		Name: "kube-proxy",
		Args: []string{nodeBin + "kube-proxy", "--config=/etc/kubernetes/kube-proxy.yaml", "--v=1"},
		Wait: waitAPI(c, n),
	}}
}

// controllerFlags keep the allocator of node ranges off: ranges are ours to give, since
// they must be the same after everything was restarted.
func (ptp) controllerFlags(c cluster) []string {
	return []string{"--allocate-node-cidrs=false", "--cluster-cidr=" + c.Pods.String()}
}

func kubeProxyConfig(c cluster, n node) []byte {
	return []byte(fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: %s
hostnameOverride: %s
clientConnection:
  kubeconfig: /etc/kubernetes/kube-proxy.conf
# Connection tracking limits belong to the whole host: 0 leaves them alone.
conntrack:
  maxPerCore: 0
  min: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
# It asks nobody who they are, and tells no secret.
metricsBindAddress: %s:%d
healthzBindAddress: 127.0.0.1:10256
`, c.Pods, n.Name, n.Address, proxyMetricsPort))
}
