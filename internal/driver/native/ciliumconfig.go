package native

import (
	"fmt"
	"maps"
	"strconv"
)

// ciliumNamespace holds the operator's lease.
const ciliumNamespace = "kube-system"

// ciliumCommon is what agent and operator must agree on.
func ciliumCommon() map[string]string {
	return map[string]string{
		"cluster-name": "default", "cluster-id": "0",
		"enable-ipv4": "true", "enable-ipv6": "false",
		"identity-allocation-mode": "crd",
		// The range of a node is what its Node object says, which the driver writes: it is the
		// same after everything was restarted, and nobody has to wait for the operator.
		"ipam":                   "kubernetes",
		"kube-proxy-replacement": "true",
		"k8s-namespace":          ciliumNamespace,
		// For the DNS proxy, by which toFQDNs rules learn addresses. HTTP rules would need Envoy.
		"enable-l7-proxy":          "true",
		"enable-k8s-networkpolicy": "true",
		"enable-policy":            "default",
	}
}

// ciliumAgentConfig are the agent's options, one key each.
func ciliumAgentConfig(c cluster, n node) map[string]string {
	m := ciliumCommon()
	maps.Copy(m, map[string]string{
		"k8s-kubeconfig-path":       "/etc/kubernetes/cilium-agent.conf",
		"k8s-require-ipv4-pod-cidr": "true",
		"devices":                   "eth0",
		"direct-routing-device":     "eth0",
		"datapath-mode":             "veth",
		"enable-tcx":                "true",
		// Nodes share a link: no tunnel, and packets that keep their addresses.
		"routing-mode":             "native",
		"auto-direct-node-routes":  "true",
		"ipv4-native-routing-cidr": c.Pods.String(),
		"mtu":                      strconv.Itoa(fabricMTU),
		// Packets of up to fabricGSO: a third more to twice the throughput. An older kernel stays with 64 KiB.
		"enable-ipv4-big-tcp": "true",
		// Without a way out there is nobody beyond the nodes to whom pods could speak: their
		// packets keep addresses that nothing answers to.
		"enable-ipv4-masquerade": strconv.FormatBool(c.Egress),
		"enable-bpf-masquerade":  strconv.FormatBool(c.Egress),
		"enable-ipv6-masquerade": "false",
		// The proxy gets its packets from BPF too; see datapath.go about iptables.
		"enable-bpf-tproxy": "true",
		"cgroup-root":       ciliumCgroup,
		"bpf-root":          bpfFolder,
		"lib-dir":           ciliumLib,
		"state-dir":         ciliumRun,
		"socket-path":       ciliumRun + "/cilium.sock",
		"procfs":            "/proc",
		// PID 1 shows it to containerd when the programs of the node are loaded, see announce.
		"write-cni-conf-when-ready":   ciliumRun + "/cni/" + cniConfig,
		"cni-exclusive":               "true",
		"cni-log-file":                ciliumRun + "/cilium-cni.log",
		"external-envoy-proxy":        "false",
		"disable-envoy-version-check": "true",

		"enable-health-checking":          "true",
		"enable-endpoint-health-checking": "true",
		"enable-l2-neigh-discovery":       "false",
		"enable-policy-secrets-sync":      "false",
		"enable-dynamic-config":           "false",
		"synchronize-k8s-nodes":           "true",
		"monitor-aggregation":             "medium",
		"prometheus-serve-addr":           fmt.Sprintf("%s:%d", n.Address, ciliumAgentMetrics),
	})
	maps.Copy(m, hubbleConfig(n))
	maps.Copy(m, ciliumMaps)
	return m
}

// ciliumMaps are the sizes of the BPF maps in entries. By default the agent sizes them for a
// production machine, and each node is charged with more memory than everything else of it.
var ciliumMaps = map[string]string{
	"preallocate-bpf-maps":     "false",
	"bpf-ct-global-tcp-max":    "16384",
	"bpf-ct-global-any-max":    "8192",
	"bpf-nat-global-max":       "16384",
	"bpf-neigh-global-max":     "16384",
	"bpf-lb-map-max":           "8192",
	"bpf-policy-map-max":       "4096",
	"bpf-policy-stats-map-max": "4096",
	"bpf-auth-map-max":         "8192",
	"bpf-sock-rev-map-max":     "8192",
	"bpf-fragments-map-max":    "1024",
}

// ciliumOperatorConfig are the operator's options. There is one operator on each server; they
// elect the one that works.
func ciliumOperatorConfig(c cluster, n node) map[string]string {
	m := ciliumCommon()
	maps.Copy(m, map[string]string{
		"k8s-kubeconfig-path":            "/etc/kubernetes/cilium-operator.conf",
		"operator-api-serve-addr":        "127.0.0.1:9234",
		"enable-metrics":                 "true",
		"operator-prometheus-serve-addr": fmt.Sprintf("%s:%d", n.Address, ciliumOperatorMetrics),
		// The driver makes them before anybody asks.
		"skip-crd-creation": "true",
		// These look for the agent's pod, and agents here are no pods.
		"remove-cilium-node-taints":      "false",
		"set-cilium-node-taints":         "false",
		"set-cilium-is-up-condition":     "false",
		"unmanaged-pod-watcher-interval": "0",
	})
	return m
}
