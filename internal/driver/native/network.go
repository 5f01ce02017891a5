package native

import (
	"encoding/json"
	"fmt"
	"net/netip"
)

// network connects the pods of a cluster. A plugin says what it puts into a node; the
// supervisor lays addresses and routes, PID 1 writes files and runs services.
type network interface {
	// name is network.plugin of the spec.
	name() string
	// files are written to /etc/cni/net.d of the node.
	files(c cluster, n node) (map[string][]byte, error)
	// routes of the node beside the default one.
	routes(c cluster, n node) []route
	// services of the node, beside those that every node has.
	services(c cluster, n node) []service
	// controllerFlags are added to the controller manager's.
	controllerFlags(c cluster) []string
}

// route sends a range to another node, or refuses it: without Via, whoever sends there is told
// at once that nobody is.
type route struct {
	To  netip.Prefix
	Via netip.Addr
}

// networks is the registry of plugins: adding one is a line here.
var networks = map[string]network{"ptp": ptp{}}

// ptp gives each pod a point-to-point link, each node a /24 that the other nodes have a
// route to, and Services through kube-proxy. It needs no bridge and so no br_netfilter.
type ptp struct{}

func (ptp) name() string { return "ptp" }

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
	return map[string][]byte{"10-orrery.conflist": conf}, err
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
		Wait: waitAPI(n),
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
