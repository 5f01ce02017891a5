package spec

// APIVersion and Kind head every orrery.yaml.
const (
	APIVersion = "orrery.dev/v1alpha1"
	Kind       = "Environment"
)

// Durability says whether acknowledged writes reach the disk.
type Durability string

const (
	DurabilityFull Durability = "full" // fsync on: etcd, containerd metadata, JetStream
	DurabilityFast Durability = "fast" // fsync off: quicker, a host crash may lose acknowledged writes
)

// Environment is one named instance of the platform. What a file leaves out is
// taken from [Default]; an absent file is three servers and two agents.
type Environment struct {
	APIVersion string `json:"apiVersion" jsonschema:"enum=orrery.dev/v1alpha1"`
	Kind       string `json:"kind" jsonschema:"enum=Environment"`
	// Name of the environment: lower case letters, digits and "-", at most 20
	// characters, beginning with a letter. Default "local".
	Name string `json:"name,omitempty" jsonschema:"maxLength=20,pattern=^[a-z]([a-z0-9-]*[a-z0-9])?$"`
	// Driver that makes the Kubernetes API: "native" makes a cluster on this machine,
	// "k3d" in containers with k3d and the engine that it finds, "existing" takes one that somebody
	// else made. Default "native".
	Driver string `json:"driver,omitempty" jsonschema:"pattern=^[a-z][a-z0-9-]*$"`
	// Existing is the cluster of driver: existing. That cluster has its nodes, network and
	// addresses already: servers, agents, zones, node, network.nodes, network.egress and
	// ports are refused beside it. images.registry is needed, since the cluster pulls from
	// there.
	Existing *Existing `json:"existing,omitempty"`
	// K3d is what driver: k3d is told besides. It is refused beside other drivers.
	K3d *K3d `json:"k3d,omitempty"`
	// Servers run the control plane and workloads. 1, 3, 5 or 7; default 3. An even
	// number is refused: it survives no more failures than the odd one below it.
	Servers int `json:"servers,omitempty" jsonschema:"enum=1,enum=3,enum=5,enum=7"`
	// Agents run workloads only. Default 2; 0 is allowed. Servers and agents together
	// are at most 50.
	Agents *int `json:"agents,omitempty" jsonschema:"minimum=0,maximum=49"`
	// Zones are given to the nodes round robin as topology.kubernetes.io/zone. Default a, b, c.
	Zones []string `json:"zones,omitempty" jsonschema:"minItems=1,uniqueItems=true"`
	// Node is the size of each node.
	Node NodeSize `json:"node,omitempty"`
	// Network of the nodes, pods and services.
	Network Network `json:"network,omitempty"`
	// Durability of what the platform acknowledges. Default "full".
	Durability Durability `json:"durability,omitempty" jsonschema:"enum=full,enum=fast"`
	// Ports on 127.0.0.1 of the host.
	Ports Ports `json:"ports,omitempty"`
	// Overlay of the catalogue that is deployed: a folder of infra/k8s/overlays. Default
	// "local", and "prod" with driver: existing.
	Overlay string `json:"overlay,omitempty" jsonschema:"maxLength=63,pattern=^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"`
	// Profile is how much of the overlay is deployed: "core" (nodes, network, DNS, storage,
	// NATS), "platform" (core, and certificates that renew, observability, pulse) or "full" (all
	// of it). Default: what the environment has, and "platform" for a new one. It stands beside no
	// components.
	Profile string `json:"profile,omitempty" jsonschema:"enum=core,enum=platform,enum=full"`
	// Components to deploy; default: those of the profile. Their needs are added.
	Components []string `json:"components,omitempty"`
	// Images says where images may come from.
	Images Images `json:"images,omitempty"`
	// GitOps says what Argo CD reads when it applies the platform.
	GitOps GitOps `json:"gitops,omitempty"`
}

// Sources that Argo CD reads, as gitops.source names them.
const (
	GitOpsOCI = "oci"
	GitOpsGit = "git"
)

// GitOps is what 'orrery gitops enable' hands over with.
type GitOps struct {
	// Source that Argo CD reads: "oci", artifacts in the environment's mirror, or "git", a server in
	// the cluster, which is then one more component (git-server). An environment that is handed over
	// stays with the one that it has until 'orrery gitops enable --source' names another. Default "oci".
	Source string `json:"source,omitempty" jsonschema:"enum=oci,enum=git"`
}

// DriverExisting takes a cluster that somebody else made.
const DriverExisting = "existing"

// DriverK3d makes nodes of containers with k3d.
const DriverK3d = "k3d"

// Existing names a cluster that somebody else made.
type Existing struct {
	// Kubeconfig is the file that the cluster is reached with, relative to orrery.yaml. It is
	// never written to.
	Kubeconfig string `json:"kubeconfig"`
	// Context in that file; the current one is never assumed.
	Context string `json:"context"`
	// Provides lists components that the cluster has by itself, such as coredns or
	// metrics-server: they are not deployed, and what needs them takes them as there.
	Provides []string `json:"provides,omitempty" jsonschema:"uniqueItems=true"`
}

// K3d names images that the engine pulls, each with a digest (rancher/k3s:TAG@sha256:…). What is
// left out is made here of the node distribution, and needs no registry.
type K3d struct {
	// Image of nodes, k3s' own: they run k3s then, and not upstream Kubernetes.
	Image string `json:"image,omitempty"`
	// LoadBalancer is k3d's image of what stands before the API (ghcr.io/k3d-io/k3d-proxy).
	LoadBalancer string `json:"loadBalancer,omitempty"`
	// Tools is k3d's image of what it starts for a moment when it makes a cluster
	// (ghcr.io/k3d-io/k3d-tools).
	Tools string `json:"tools,omitempty"`
}

// K3dImages are those of k3d, empty where none is named.
func (e *Environment) K3dImages() K3d {
	if e.K3d == nil {
		return K3d{}
	}
	return *e.K3d
}

// NodeSize is the size that each node reports.
type NodeSize struct {
	// Memory that the kubelet reports, as a Kubernetes quantity ("4Gi"), at least 512Mi.
	// Default: the host's.
	Memory string `json:"memory,omitempty"`
}

// Values of network.plugin.
const (
	PluginAuto   = "auto"
	PluginCilium = "cilium"
	PluginPTP    = "ptp"
	// PluginCluster: the cluster has its own. Only with driver: existing, where auto is this.
	PluginCluster = "cluster"
	// PluginRoutes: nodes find routes to each other's pods in the API, and kube-proxy serves Services.
	// Only with driver: k3d, where auto is this when the engine's kernel does not take Cilium.
	PluginRoutes = "routes"
)

// Network holds the ranges (IPv4 CIDR) and the plugin. Ranges exist only inside the
// environment's own network namespaces, so environments may share them.
type Network struct {
	// Plugin that connects pods: "cilium" (BPF, with network policies and without
	// kube-proxy), "ptp" (routes, and kube-proxy in nftables mode; no policies), or "auto",
	// which is cilium where the machine can, otherwise ptp, decided once when the
	// environment is made. With driver: existing, auto is "cluster": it has a network, and
	// none is deployed; "cilium" deploys the catalogue's. With driver: k3d, auto is cilium where the
	// engine's kernel takes it, otherwise "routes": routes between nodes, and kube-proxy; no policies.
	// Default "auto".
	Plugin string `json:"plugin,omitempty" jsonschema:"enum=auto,enum=cilium,enum=ptp,enum=cluster,enum=routes"`
	// Nodes is the fabric; a /24 or larger. Default 10.89.0.0/24.
	Nodes string `json:"nodes,omitempty"`
	// Pods is split into a /24 per node. Default 10.244.0.0/16.
	Pods string `json:"pods,omitempty"`
	// Services range, /12 to /24; its first address is the Kubernetes API, its tenth the
	// cluster DNS. Default 10.96.0.0/16.
	Services string `json:"services,omitempty"`
	// Egress gives pods a route out of the fabric. Default false: hermetic.
	Egress bool `json:"egress,omitempty"`
}

// Ports on 127.0.0.1, 1024 to 65535. 0 picks a free one when the environment is made
// and keeps it.
type Ports struct {
	// API is the load balancer in front of the API servers. Default 16443 for "local",
	// otherwise 0.
	API int `json:"api,omitempty" jsonschema:"minimum=0,maximum=65535"`
	// Registry is the mirror that nodes pull from and a person pushes to. Default 15000
	// for "local", otherwise 0.
	Registry int `json:"registry,omitempty" jsonschema:"minimum=0,maximum=65535"`
}

// Verification says what becomes of an image whose signature, provenance or digest is
// not right.
type Verification string

const (
	VerifyEnforce Verification = "enforce" // it is not deployed
	VerifyWarn    Verification = "warn"    // a warning, and it is deployed
)

// Sources of images, as images.sources names them.
const (
	SourceBundle   = "bundle"   // a file made by `orrery bundle create`
	SourceRegistry = "registry" // pulled by digest
	SourceSource   = "source"   // built here from pinned modules
)

// Images is the image source policy.
type Images struct {
	// Sources in order of preference. Default bundle, registry, source. One that is not
	// named is not used.
	Sources []string `json:"sources,omitempty" jsonschema:"minItems=1,uniqueItems=true,enum=bundle,enum=registry,enum=source"`
	// Registry is HOST[:PORT][/PATH] where first-party images and their signatures are
	// found as HOST/PATH/NAME@DIGEST, and programs as HOST/PATH/programs:sha256-DIGEST.
	// Default none: only images with a registry reference of their own are pulled.
	Registry string `json:"registry,omitempty"`
	// Files are mirrors of the files that components take from public repositories (CRDs of
	// operators), asked in this order before where they are published: https://HOST[/PATH], to
	// which the file's own host and path are added. Their content is known, so that a mirror
	// needs no trust.
	Files []string `json:"files,omitempty" jsonschema:"uniqueItems=true"`
	// CABundle is a PEM file with certificate authorities that registries are trusted by,
	// besides the system's. Relative to orrery.yaml.
	CABundle string `json:"caBundle,omitempty"`
	// Verify says whether an image that is not signed, or not what it says it is, may be
	// deployed. Default "enforce".
	Verify Verification `json:"verify,omitempty" jsonschema:"enum=enforce,enum=warn"`
	// TrustedKeys are PEM files with public keys whose signatures count, relative to
	// orrery.yaml. The environment's own key always does.
	TrustedKeys []string `json:"trustedKeys,omitempty" jsonschema:"uniqueItems=true"`
	// Builders are those whose provenance counts, by the URI that it names. Default: this
	// machine, https://orrery.dev/builder/local; a list takes the place of the default.
	Builders []string `json:"builders,omitempty" jsonschema:"uniqueItems=true"`
	// Allow lists further images, by digest (HOST/PATH@sha256:…), that pods in guarded
	// namespaces may run.
	Allow []string `json:"allow,omitempty" jsonschema:"uniqueItems=true"`
	// Password of the environment's signing key. Default: kept in the kernel's keyring.
	Password *Password `json:"password,omitempty"`
}

// Password is one value of a file that SOPS encrypted.
type Password struct {
	// SOPS is the encrypted file, relative to orrery.yaml.
	SOPS string `json:"sops"`
	// Key is the name of the value in it.
	Key string `json:"key"`
}
