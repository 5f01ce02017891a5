package k3d

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/orrery-dev/orrery/infra"
	"github.com/orrery-dev/orrery/internal/driver/k3d/contract"
	"github.com/orrery-dev/orrery/internal/spec"
)

// Labels of what k3d makes, and ours on nodes: which environment it is of, and which one of that name.
const (
	labelCluster     = "k3d.cluster"
	labelRole        = "k3d.role"
	labelEnvironment = "orrery.dev/environment"
	labelID          = "orrery.dev/id"
)

// clusterName is what k3d calls an environment.
func clusterName(environment string) string { return "orrery-" + environment }

// nodeName is what k3d calls a node of it.
func nodeName(environment, role string, index int) string {
	return fmt.Sprintf("k3d-%s-%s-%d", clusterName(environment), role, index)
}

// mirrorName is of the container that the environment's registry is in.
func mirrorName(environment string) string { return "k3d-" + clusterName(environment) + "-mirror" }

// objects is the volume with the BPF programs that agents compiled. Like images it is no environment's
// own, and stays for the next one: compiling them takes nodes that begin longer than all else.
const objects = "orrery-objects"

// place of a node by what k3d calls it.
type place struct {
	name   string
	filter string // as k3d selects it: server:0
	node   spec.Node
}

func places(e spec.Environment) []place {
	var p []place
	count := map[string]int{}
	for _, n := range e.Topology() {
		i := count[n.Role]
		count[n.Role]++
		p = append(p, place{nodeName(e.Name, n.Role, i), n.Role + ":" + strconv.Itoa(i), n})
	}
	return p
}

// wish is what the file does not know of an environment.
type wish struct {
	spec               spec.Environment
	nodeImage, sandbox string
	id, token          string
}

// configuration is infra/k3d-config.yaml with what orrery.yaml says in its place.
func configuration(w wish) ([]byte, error) {
	return configure(infra.K3dConfig, w)
}

type object = map[string]any

func configure(base []byte, w wish) ([]byte, error) {
	var c object
	if err := yaml.Unmarshal(base, &c); err != nil {
		return nil, fmt.Errorf("infra/k3d-config.yaml: %w", err)
	}
	e := w.spec
	all := []string{"server:*", "agent:*"}
	if e.AgentCount() == 0 {
		all = all[:1] // k3d refuses a filter that selects nothing
	}
	c["metadata"] = object{"name": clusterName(e.Name)}
	c["servers"], c["agents"], c["image"] = e.Servers, e.AgentCount(), w.nodeImage
	c["kubeAPI"] = object{"hostIP": "127.0.0.1", "hostPort": strconv.Itoa(e.Ports.API)}
	c["subnet"], c["token"] = e.Network.Nodes, w.token
	// The mirror is made first, so that images are pushed to it while nodes start; all names are asked of it.
	c["registries"] = object{"config": fmt.Sprintf("mirrors:\n  \"*\":\n    endpoint:\n    - http://%s:%d\n", mirrorName(e.Name), contract.MirrorPort)}
	if e.Network.Plugin == spec.PluginCilium {
		c["volumes"] = []object{{"volume": objects + ":/var/lib/orrery-objects", "nodeFilters": all}}
	}
	options := child(c, "options")
	k3s := child(options, "k3s")
	// Nodes of ours bring routes and kube-proxy, for which Cilium's agents stand otherwise.
	args := slices.DeleteFunc(list(k3s["extraArgs"]), func(a object) bool {
		return e.Network.Plugin == spec.PluginRoutes && (a["arg"] == "--flannel-backend=none" || a["arg"] == "--disable-kube-proxy")
	})
	for _, arg := range []string{"--cluster-cidr=" + e.Network.Pods, "--service-cidr=" + e.Network.Services, "--cluster-dns=" + e.ClusterDNS().String()} {
		args = append(args, object{"arg": arg, "nodeFilters": []string{"server:*"}})
	}
	args = append(args, object{"arg": "--pause-image=" + w.sandbox, "nodeFilters": all})
	for _, p := range places(e) { // what orrery.yaml calls a node, Kubernetes does too
		args = append(args, object{"arg": "--node-name=" + p.node.Name, "nodeFilters": []string{p.filter}})
	}
	k3s["extraArgs"] = args
	k3s["nodeLabels"] = nodeLabels(e)
	runtime := child(options, "runtime")
	runtime["labels"] = []object{
		{"label": labelEnvironment + "=" + e.Name, "nodeFilters": all},
		{"label": labelID + "=" + w.id, "nodeFilters": all},
	}
	if m := e.Node.Memory; m != "" {
		bytes := fmt.Sprintf("%dm", e.MemoryBytes()>>20)
		runtime["serversMemory"], runtime["agentsMemory"] = bytes, bytes
	}
	// What failed half-way is looked at, gone on with or deleted by us.
	child(options, "k3d")["disableRollback"] = true
	var b bytes.Buffer
	y := yaml.NewEncoder(&b)
	y.SetIndent(2)
	if err := y.Encode(c); err != nil {
		return nil, err
	}
	return b.Bytes(), y.Close()
}

// nodeLabels say where each node is, a label with all nodes that have it.
func nodeLabels(e spec.Environment) []object {
	var labels []object
	add := func(label, filter string) {
		for _, l := range labels {
			if l["label"] == label {
				filters, _ := l["nodeFilters"].([]string)
				l["nodeFilters"] = append(filters, filter)
				return
			}
		}
		labels = append(labels, object{"label": label, "nodeFilters": []string{filter}})
	}
	for _, p := range places(e) {
		add("topology.kubernetes.io/zone="+p.node.Zone, p.filter)
	}
	for _, p := range places(e) {
		add("rack="+p.node.Rack, p.filter)
	}
	return labels
}

// child is the object of that name in o, made if there is none.
func child(o object, name string) object {
	c, ok := o[name].(object)
	if !ok {
		c = object{}
		o[name] = c
	}
	return c
}

func list(v any) []object {
	var l []object
	items, _ := v.([]any)
	for _, i := range items {
		if o, ok := i.(object); ok {
			l = append(l, o)
		}
	}
	return l
}
