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

// Environment is one named instance of the platform. Its zero fields are filled
// by [Default]; an absent file is the seed's topology.
type Environment struct {
	APIVersion string `json:"apiVersion" jsonschema:"const=orrery.dev/v1alpha1"`
	Kind       string `json:"kind" jsonschema:"const=Environment"`
	// Name of the environment: an RFC 1123 label of at most 20 characters. Default "local".
	Name string `json:"name,omitempty"`
	// Driver that makes the Kubernetes API. Default "native".
	Driver string `json:"driver,omitempty" jsonschema:"enum=native"`
	// Servers run the control plane and workloads. 1, 3 or 5; default 3.
	Servers int `json:"servers,omitempty"`
	// Agents run workloads only. Default 2 (a pointer, so that 0 can be said).
	Agents *int `json:"agents,omitempty"`
	// Zones are given to the nodes round robin as topology.kubernetes.io/zone. Default a, b, c.
	Zones []string `json:"zones,omitempty"`
	// Node is the size of each node.
	Node Node `json:"node,omitempty"`
	// Network of the nodes, pods and services.
	Network Network `json:"network,omitempty"`
	// Durability of what the platform acknowledges. Default "full".
	Durability Durability `json:"durability,omitempty" jsonschema:"enum=full,enum=fast"`
	// Ports on 127.0.0.1 of the host.
	Ports Ports `json:"ports,omitempty"`
	// Overlay of the catalogue that is deployed. Default "local".
	Overlay string `json:"overlay,omitempty"`
	// Components to deploy; default: all of the overlay. Their needs are added.
	Components []string `json:"components,omitempty"`
	// Images says where images may come from.
	Images Images `json:"images,omitempty"`
}

// Node is the size that each node reports.
type Node struct {
	// Memory that the kubelet reports, as a Kubernetes quantity ("4Gi"). Default: the host's.
	Memory string `json:"memory,omitempty"`
}

// Network holds the ranges (IPv4 CIDR) and the plugin. Ranges exist only inside the
// environment's own network namespaces, so environments may share them.
type Network struct {
	// Plugin that connects pods. Default "ptp" (routes, and kube-proxy in nftables mode).
	Plugin string `json:"plugin,omitempty" jsonschema:"enum=ptp"`
	// Nodes is the fabric; a /24 or larger. Default 10.89.0.0/24.
	Nodes string `json:"nodes,omitempty"`
	// Pods is split into a /24 per node. Default 10.244.0.0/16.
	Pods string `json:"pods,omitempty"`
	// Services range; the tenth address is the cluster DNS. Default 10.96.0.0/16.
	Services string `json:"services,omitempty"`
	// Egress gives pods a route out of the fabric. Default false: hermetic.
	Egress bool `json:"egress,omitempty"`
}

// Ports on 127.0.0.1. 0 picks a free one when the environment is made and keeps it.
type Ports struct {
	// API is the load balancer in front of the API servers. Default 16443 for "local".
	API int `json:"api,omitempty"`
	// Registry is the mirror that nodes pull from and a person pushes to. Default 15000 for "local".
	Registry int `json:"registry,omitempty"`
}

// Images is the image source policy.
type Images struct {
	// Sources in order of preference. Default [source].
	Sources []string `json:"sources,omitempty" jsonschema:"enum=source"`
}
