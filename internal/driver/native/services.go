package native

import (
	"fmt"
	"strings"
)

// nodeBin is where the distribution is inside a node.
const nodeBin = "/opt/orrery/bin/"

// service is one supervised process of a node.
type service struct {
	Name string   `json:"name"`
	Args []string `json:"args"` // argv; the first is a path in the node
	Env  []string `json:"env,omitempty"`
	// Wait holds the start back until unix:PATH accepts or https://… answers 200 to a
	// client that trusts the cluster's authority.
	Wait string `json:"wait,omitempty"`
	// WaitAs names the pair that the client is known by, when the answer is not for everybody.
	WaitAs string `json:"waitAs,omitempty"`
	// After holds a start back until there is a file in this folder, for at most afterLimit, when
	// AfterIf, another folder, is not empty.
	After   string `json:"after,omitempty"`
	AfterIf string `json:"afterIf,omitempty"`
	// Pins is the bpf file system in which the service keeps what outlives it; it is looked
	// after before each start, see repairPins.
	Pins string `json:"pins,omitempty"`
	// Last ends after the others at a graceful stop: what they write to.
	Last bool `json:"last,omitempty"`
}

// kubeletRoot is where the kubelet keeps what its pods have mounted.
const kubeletRoot = "/var/lib/kubelet"

const containerdSocket = "unix:/run/containerd/containerd.sock"

// apiURL is where the services of a node reach the API: a server its own API server (as
// kubeadm has it), an agent the balancer.
func apiURL(c cluster, n node) string {
	if n.server() {
		return fmt.Sprintf("https://127.0.0.1:%d", apiPort)
	}
	return fmt.Sprintf("https://%s:%d", c.Gateway, apiPort)
}

// readyPath is where an API server says whether it is ready. One that serves is ready but for
// the roles and priorities that come with Kubernetes: it looks for every one of them, and
// makes them on the first start, which takes it seconds. Kubelets do not need them, since a
// node's rights are no role; nobody waits for them when they were made before.
const (
	readyPath   = "/readyz"
	servingPath = readyPath + "?exclude=poststarthook/rbac/bootstrap-roles&exclude=poststarthook/scheduling/bootstrap-system-priority-classes"
)

// waitAPI holds services back that could only fail before the API is ready: on servers its
// API server starts on the same cores, and what is not a node has no rights before.
func waitAPI(c cluster, n node) string { return apiURL(c, n) + readyPath }

// nodeServices lists the services of n in the order of their start.
func nodeServices(c cluster, n node, net network) []service {
	var s []service
	if n.server() {
		s = append(s, etcdService(c, n), apiserverService(c, n),
			controllerManagerService(c, n, net), schedulerService(c, n))
	}
	s = append(s, service{
		Name: "containerd", Last: true,
		Args: []string{nodeBin + "containerd", "--config=/etc/containerd/config.toml"},
	}, service{
		Name: "kubelet",
		Args: []string{
			nodeBin + "kubelet", "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubelet.conf",
			"--node-ip=" + n.Address.String(), "--hostname-override=" + n.Name, "--root-dir=" + kubeletRoot,
			"--node-labels=" + strings.Join(append([]string{"topology.kubernetes.io/zone=" + n.Zone, "rack=" + n.Rack}, n.Labels...), ","), "--v=1",
		},
		Wait: containerdSocket,
		// A kubelet that has pods from before, but no network for them yet, tries to mount their
		// volumes before it knows of them. Each try fails, and the pause between two doubles up to
		// two minutes, which pods then wait although the network has come.
		After: cniFolder, AfterIf: kubeletRoot + "/pods",
	})
	return append(s, net.services(c, n)...)
}

// initialState of a member without data: new, or existing when it joins others.
const initialState = "--initial-cluster-state="

func peerURL(n node) string { return fmt.Sprintf("https://%s:2380", n.Address) }

func etcdService(c cluster, n node) service {
	client := fmt.Sprintf("https://%s:2379", n.Address)
	peer := peerURL(n)
	args := []string{
		nodeBin + "etcd", "--name=" + n.Name, "--data-dir=/var/lib/etcd",
		"--listen-client-urls=https://127.0.0.1:2379," + client, "--advertise-client-urls=" + client,
		// Numbers and health without TLS: monitoring has no certificate of etcd's authority, and
		// with one it could read every secret.
		fmt.Sprintf("--listen-metrics-urls=http://%s:%d", n.Address, etcdMetricsPort),
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + initialCluster(c), initialState + "new",
		"--initial-cluster-token=orrery-" + c.Environment,
		"--client-cert-auth", "--trusted-ca-file=" + nodePKI + "etcd-ca.crt",
		"--cert-file=" + nodePKI + "etcd-server.crt", "--key-file=" + nodePKI + "etcd-server.key",
		"--peer-client-cert-auth", "--peer-trusted-ca-file=" + nodePKI + "etcd-ca.crt",
		"--peer-cert-file=" + nodePKI + "etcd-peer.crt", "--peer-key-file=" + nodePKI + "etcd-peer.key",
		"--tls-min-version=TLS1.2", "--auto-compaction-mode=periodic", "--auto-compaction-retention=30m",
		"--log-level=warn",
	}
	if c.Fast {
		args = append(args, "--unsafe-no-fsync")
	}
	return service{Name: "etcd", Args: args, Last: true}
}

func apiserverService(c cluster, n node) service {
	p := nodePKI
	return service{Name: "kube-apiserver", Args: []string{
		nodeBin + "kube-apiserver", "--advertise-address=" + n.Address.String(), fmt.Sprintf("--secure-port=%d", apiPort),
		// Only its own member, as kubeadm has it: the client connects to all that are named, once
		// per kind of object, and the balancer leaves a server out whose member has died.
		"--etcd-servers=https://127.0.0.1:2379", "--etcd-cafile=" + p + "etcd-ca.crt",
		"--etcd-certfile=" + p + "apiserver-etcd-client.crt", "--etcd-keyfile=" + p + "apiserver-etcd-client.key",
		"--tls-cert-file=" + p + "apiserver.crt", "--tls-private-key-file=" + p + "apiserver.key", "--tls-min-version=VersionTLS12",
		"--client-ca-file=" + p + "apiserver-client-cas.crt", "--authentication-config=/etc/kubernetes/authentication.yaml",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		"--service-account-key-file=" + p + "sa.pub", "--service-account-signing-key-file=" + p + "sa.key",
		"--service-account-issuer=https://kubernetes.default.svc." + domain,
		"--service-cluster-ip-range=" + c.Services.String(),
		// It is read again within a minute of a change, so that keys are exchanged without a restart.
		"--encryption-provider-config=" + p + atRestConfig, "--encryption-provider-config-automatic-reload",
		// A token that a pod was given is good for an hour; kubelets renew it before.
		"--service-account-extend-token-expiration=false",
		"--audit-policy-file=/etc/kubernetes/audit.yaml", "--audit-log-path=" + auditLog,
		fmt.Sprintf("--audit-log-maxsize=%d", auditMegabytes), fmt.Sprintf("--audit-log-maxbackup=%d", auditBackups), "--audit-log-maxage=30",
		"--audit-log-truncate-enabled", "--audit-log-truncate-max-event-size=102400",
		"--kubelet-client-certificate=" + p + "apiserver-kubelet-client.crt", "--kubelet-client-key=" + p + "apiserver-kubelet-client.key",
		"--kubelet-certificate-authority=" + p + "ca.crt", "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + p + "front-proxy-ca.crt", "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group", "--requestheader-username-headers=X-Remote-User",
		"--proxy-client-cert-file=" + p + "front-proxy-client.crt", "--proxy-client-key-file=" + p + "front-proxy-client.key",
		// Aggregated APIs are reached at their pods, whether or not a Service proxy runs on this node.
		"--enable-aggregator-routing", "--profiling=false", "--v=1",
	}}
}

func controllerManagerService(c cluster, n node, net network) service {
	p, conf := nodePKI, "/etc/kubernetes/kube-controller-manager.conf"
	args := []string{
		nodeBin + "kube-controller-manager", "--kubeconfig=" + conf, "--authentication-kubeconfig=" + conf, "--authorization-kubeconfig=" + conf,
		elect(c), "--use-service-account-credentials",
		"--service-account-private-key-file=" + p + "sa.key", "--root-ca-file=" + p + "ca.crt",
		"--client-ca-file=" + p + "ca.crt", "--requestheader-client-ca-file=" + p + "front-proxy-ca.crt",
		"--service-cluster-ip-range=" + c.Services.String(),
		// Of Kubernetes' own signers only the one for clients of the API, under an authority that
		// nobody else believes. The others would make nodes, which the driver makes. Nothing revokes
		// a certificate, so that it has to end by itself.
		"--cluster-signing-kube-apiserver-client-cert-file=" + p + "clients-ca.crt",
		"--cluster-signing-kube-apiserver-client-key-file=" + p + "clients-ca.key",
		"--cluster-signing-duration=720h",
		// The default of 20 requests a second makes the first minute of a cluster wait on its own client.
		"--kube-api-qps=300", "--kube-api-burst=600",
		"--flex-volume-plugin-dir=/var/lib/kubelet/volumeplugins", "--profiling=false", "--tls-min-version=VersionTLS12", "--v=1",
	}
	args = append(args, serving(n, "kube-controller-manager")...)
	return service{Name: "kube-controller-manager", Args: append(args, net.controllerFlags(c)...), Wait: waitAPI(c, n)}
}

func schedulerService(c cluster, n node) service {
	conf := "/etc/kubernetes/kube-scheduler.conf"
	args := []string{
		nodeBin + "kube-scheduler", "--kubeconfig=" + conf, "--authentication-kubeconfig=" + conf, "--authorization-kubeconfig=" + conf,
		elect(c), "--profiling=false", "--tls-min-version=VersionTLS12", "--v=1",
	}
	return service{Name: "kube-scheduler", Wait: waitAPI(c, n), Args: append(args, serving(n, "kube-scheduler")...)}
}

// elect: the one server of a fabric has nobody to agree with. A lease that it cannot renew in time,
// as on a slow machine, would end its controllers; and after a power cut they would wait for their own.
// To a server in a container others may come.
func elect(c cluster) string {
	return fmt.Sprintf("--leader-elect=%t", len(c.servers()) != 1 || !c.Fabric.IsValid())
}

// serving lets a controller be asked for its metrics over the fabric, under a certificate of
// the cluster's authority. Whoever asks needs a token that may get /metrics.
func serving(n node, pair string) []string {
	return []string{
		"--bind-address=" + n.Address.String(),
		"--tls-cert-file=" + nodePKI + pair + ".crt", "--tls-private-key-file=" + nodePKI + pair + ".key",
	}
}
