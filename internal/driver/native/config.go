package native

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
)

// Nobody is let in without credentials, except to ask for health.
const authenticationConfig = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /livez
  - path: /readyz
  - path: /healthz
`

// kubeletConfig: eviction by disk is nearly off and images are never collected, since the
// disk is the host's and its fill level says nothing about this node. Status is looked at
// more often than by default, though not sent more often: after a restart the API remembers
// the node as Ready, so the kubelet's quick first update does not happen, and nobody could
// tell for 10 s whether it is back. Pods are synchronised more often too: a change of a
// ConfigMap or Secret, such as a new alert rule, is in their volumes after 5 s at most, not
// after a minute. New volumes are measured after 15 s at most, not after a minute: it was the
// last thing that a new platform waited for.
func kubeletConfig(c cluster) []byte {
	return []byte(fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: /etc/kubernetes/pki/kubelet.crt
tlsPrivateKeyFile: /etc/kubernetes/pki/kubelet.key
tlsMinVersion: VersionTLS12
cgroupDriver: cgroupfs
failCgroupV1: false
cgroupsPerQOS: true
enforceNodeAllocatable: [pods]
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: [%s]
clusterDomain: %s
resolvConf: /etc/resolv.conf
failSwapOn: false
seccompDefault: true
protectKernelDefaults: true
makeIPTablesUtilChains: false
evictionHard: {memory.available: 50Mi, nodefs.available: "1%%", nodefs.inodesFree: "1%%", imagefs.available: "1%%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
volumePluginDir: /var/lib/kubelet/volumeplugins
nodeStatusUpdateFrequency: 2s
syncFrequency: 5s
volumeStatsAggPeriod: 15s
nodeStatusReportFrequency: 5m
serializeImagePulls: false
containerLogMaxSize: 5Mi
containerLogMaxFiles: 2
podPidsLimit: 4096
enableProfilingHandler: false
`, c.ClusterDNS, domain))
}

// containerdConfig: containerd (2.4) asks the shim of every pod for its use of the processor
// each second, for a rate that only CRI clients such as crictl show; kubelets measure for
// themselves. It was an eighth of what an idle platform costs, so it is once a minute.
func containerdConfig(c cluster) []byte {
	return []byte(fmt.Sprintf(`version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
disabled_plugins = ['io.containerd.nri.v1.nri']

[plugins.'io.containerd.snapshotter.v1.overlayfs']
  store = '%s'
  socket = '%s'

[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  discard_unpacked_layers = true
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '%s'
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = '/etc/containerd/certs.d'

[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  stats_collect_period = '1m'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    container_annotations = ['%s', '%s', '%s']
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = '%srunc'
      SystemdCgroup = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['%scni']
    conf_dir = '/etc/cni/net.d'
    use_internal_loopback = true

[plugins.'io.containerd.metadata.v1.bolt']
  no_sync = %t
`, nodeLayers, nodeLayerSocket, c.Sandbox, annotationGrace, annotationPreStop, annotationPorts, nodeBin, nodeBin, c.Fast))
}

// mirrorConfig sends every image name to the mirror and nowhere else.
func mirrorConfig(c cluster) []byte {
	return []byte(fmt.Sprintf(`server = "http://%[1]s:%[2]d"

[host."http://%[1]s:%[2]d"]
  capabilities = ["pull", "resolve"]
`, c.Gateway, registryPort))
}

// registryConfig of the mirror: a folder, deletable, no caches elsewhere, behind a socket.
func registryConfig(p paths) []byte {
	return []byte(fmt.Sprintf(`version: 0.1
log:
  level: warn
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: %s
  delete:
    enabled: true
  # No cache: it would answer for blobs that were pruned.
  maintenance:
    uploadpurging:
      enabled: false
http:
  net: unix
  addr: %s
  draintimeout: 500ms
validation:
  manifests:
    indexes:
      # Of an image for several platforms it has the index, under whose digest the image is
      # known, and this machine's platform only. A list of platforms would say so, but the
      # registry (v3.1.2) crashes over an index whose entries name none, such as that of the
      # signatures of an image.
      platforms: none
`, p.join("registry"), p.registrySocket()))
}

// initConfig is what PID 1 of a node is told: nodes/NAME/init.json.
type initConfig struct {
	Hostname     string    `json:"hostname"`
	Address      string    `json:"address"`
	State        string    `json:"state"`        // nodes/NAME on the host
	Distribution string    `json:"distribution"` // dist/bin on the host
	Layers       string    `json:"layers"`       // shared layers on the host
	MachineID    string    `json:"machineID"`
	Memory       int64     `json:"memory,omitempty"` // bytes that /proc/meminfo shows; 0 = the host's
	Resolv       string    `json:"resolv"`
	Datapath     *datapath `json:"datapath,omitempty"`
	Services     []service `json:"services"`
}

// materialize writes everything that the supervisor and the nodes read. It changes only
// what differs and reports whether it did.
func materialize(i *issuer, p paths, c cluster) (changed bool, err error) {
	net, ok := networks[c.Plugin]
	if !ok {
		return false, fmt.Errorf("no network plugin %q", c.Plugin)
	}
	before := i.issued
	if err := credentials(i, p, c, net); err != nil {
		return false, err
	}
	did, err := configure(p, c, net)
	return did || i.issued != before, err
}

// configure is materialize for nodes whose credentials are there.
func configure(p paths, c cluster, net network) (changed bool, err error) {
	write := func(path string, content []byte) {
		if err != nil {
			return
		}
		var did bool
		did, err = writeFile(path, content)
		changed = changed || did
	}
	for _, n := range c.Nodes {
		etc := func(elem ...string) string { return p.nodeEtc(n.Name, elem...) }
		server := apiURL(c, n)
		users := []string{"kubelet"}
		for _, u := range net.users(n) {
			users = append(users, u.name)
		}
		if n.server() {
			users = append(users, "kube-controller-manager", "kube-scheduler")
			write(etc("kubernetes", "authentication.yaml"), []byte(authenticationConfig))
			write(etc("kubernetes", "audit.yaml"), []byte(auditPolicy))
		}
		for _, u := range users {
			write(etc("kubernetes", u+".conf"), nodeKubeconfig(server, u))
		}
		write(etc("kubernetes", "kubelet.yaml"), kubeletConfig(c))
		write(etc("containerd", "config.toml"), containerdConfig(c))
		write(etc("containerd", "certs.d", "_default", "hosts.toml"), mirrorConfig(c))
		files, ferr := net.files(c, n)
		if ferr != nil {
			return changed, ferr
		}
		for name, content := range files {
			write(etc(filepath.FromSlash(name)), content)
		}
		if err != nil {
			return changed, err
		}
		did, err := writeJSON(p.nodeInit(n.Name), initConfig{
			Hostname: n.Name, Address: n.Address.String(), State: p.node(n.Name),
			Distribution: p.distribution(), Layers: p.layers(), MachineID: machineID(c.Environment, n.Name),
			Memory: c.Memory, Resolv: resolvConf(c), Datapath: net.datapath(p), Services: nodeServices(c, n, net),
		})
		if err != nil {
			return changed, err
		}
		changed = changed || did
	}
	did, err := writeJSON(p.cluster(), c)
	return changed || did, err
}

// noResolver refuses at once.
const noResolver = "nameserver 127.0.0.53\n"

func resolvConfOf(resolvers []netip.Addr) string {
	if len(resolvers) == 0 {
		return noResolver
	}
	var b strings.Builder
	for _, a := range resolvers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return b.String()
}

// resolvConf of a node, which pods with dnsPolicy Default and the cluster's DNS forward
// to. Hermetic nodes have nothing to ask; an address that refuses at once is better than
// an empty file, which DNS servers do not accept.
func resolvConf(c cluster) string {
	if !c.Egress {
		return noResolver
	}
	return resolvConfOf(hostNameservers())
}
