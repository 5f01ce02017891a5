package smoke

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// party is one end of a connection.
type party struct {
	name, namespace string
	labels          labels.Set
	spec            map[string]any // of its pods
	// node: a process of a node: the API server, a kubelet, a pod in the node's network.
	node bool
}

// connection is one that has to be possible. Both ends have to allow it.
type connection struct {
	from, to party
	port     int
	protocol string
	why      string
}

func (c connection) String() string {
	return fmt.Sprintf("%s to %s, port %d/%s (%s)", c.from.name, c.to.name, c.port, c.protocol, c.why)
}

// policies are what the manifests of an overlay say about connections, read as Cilium does:
// nodes are matched by no selector and by no address range, but only by a rule that names
// nobody, or by Cilium's own word for them; a node itself keeps to no policy, and reaches the pods
// on it whatever they say.
type policies struct {
	list       []netv1.NetworkPolicy
	nodes      []fromNodes
	namespaces map[string]labels.Set
}

// fromNodes is what a CiliumNetworkPolicy lets in from nodes.
type fromNodes struct {
	namespace string
	selector  metav1.LabelSelector
	ports     []netv1.NetworkPolicyPort
}

// readFromNodes reads a CiliumNetworkPolicy, which may say nothing else.
func readFromNodes(t *testing.T, o *unstructured.Unstructured) (found []fromNodes) {
	t.Helper()
	var spec struct {
		EndpointSelector metav1.LabelSelector
		Ingress          []struct {
			FromEntities []string
			ToPorts      []struct {
				Ports []struct{ Port, Protocol string }
			}
		}
	}
	raw, _ := json.Marshal(o.Object["spec"])
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&spec); err != nil {
		t.Fatalf("CiliumNetworkPolicy %s: this test does not know what it says: %v", o.GetName(), err)
	}
	for _, rule := range spec.Ingress {
		if !slices.Contains(rule.FromEntities, "remote-node") {
			t.Errorf("CiliumNetworkPolicy %s lets in %q and no node", o.GetName(), rule.FromEntities)
		}
		for _, e := range rule.FromEntities {
			if !slices.Contains([]string{"host", "remote-node", "kube-apiserver"}, e) {
				t.Errorf("CiliumNetworkPolicy %s lets in %s", o.GetName(), e)
			}
		}
		from := fromNodes{namespace: o.GetNamespace(), selector: spec.EndpointSelector}
		for _, to := range rule.ToPorts {
			for _, p := range to.Ports {
				number, protocol := intstr.Parse(p.Port), corev1.Protocol(p.Protocol)
				from.ports = append(from.ports, netv1.NetworkPolicyPort{Port: &number, Protocol: &protocol})
			}
		}
		found = append(found, from)
	}
	return found
}

func policiesOf(t *testing.T, objs []*unstructured.Unstructured) policies {
	t.Helper()
	p := policies{namespaces: map[string]labels.Set{}}
	for _, o := range objs {
		switch o.GetKind() {
		case "NetworkPolicy":
			var np netv1.NetworkPolicy
			if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &np, true); err != nil {
				t.Fatalf("NetworkPolicy %s: %v", o.GetName(), err)
			}
			if np.Namespace == "" {
				t.Errorf("NetworkPolicy %s has no namespace", np.Name)
			}
			p.list = append(p.list, np)
		case "CiliumNetworkPolicy":
			p.nodes = append(p.nodes, readFromNodes(t, o)...)
		case "Namespace":
			p.namespace(o.GetName(), o.GetLabels())
		}
	}
	return p
}

func (p policies) namespace(name string, own map[string]string) {
	set := labels.Set{"kubernetes.io/metadata.name": name}
	for k, v := range own {
		set[k] = v
	}
	p.namespaces[name] = set
}

func matches(selector *metav1.LabelSelector, set labels.Set) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(set)
}

// peer says whether one of peers is other, seen from a policy of the namespace own.
func (p policies) peer(own string, peers []netv1.NetworkPolicyPeer, other party) bool {
	if len(peers) == 0 {
		return true
	}
	return slices.ContainsFunc(peers, func(peer netv1.NetworkPolicyPeer) bool {
		switch {
		case other.node || peer.IPBlock != nil: // Cilium matches nothing of the cluster by address
			return false
		case peer.NamespaceSelector == nil && other.namespace != own:
			return false
		case peer.NamespaceSelector != nil && !matches(peer.NamespaceSelector, p.namespaces[other.namespace]):
			return false
		}
		return peer.PodSelector == nil || matches(peer.PodSelector, other.labels)
	})
}

func port(ports []netv1.NetworkPolicyPort, number int, protocol string) bool {
	if len(ports) == 0 {
		return true
	}
	return slices.ContainsFunc(ports, func(p netv1.NetworkPolicyPort) bool {
		of := "TCP"
		if p.Protocol != nil {
			of = string(*p.Protocol)
		}
		switch {
		case of != protocol:
			return false
		case p.Port == nil:
			return true
		case p.EndPort != nil:
			return number >= p.Port.IntValue() && number <= int(*p.EndPort)
		}
		return p.Port.IntValue() == number
	})
}

// blocked says which side does not allow a connection; "" when both do.
func (p policies) blocked(c connection) string {
	if !c.from.node && !p.allows(c.from, netv1.PolicyTypeEgress, func(np netv1.NetworkPolicy) bool {
		return slices.ContainsFunc(np.Spec.Egress, func(r netv1.NetworkPolicyEgressRule) bool {
			return p.peer(np.Namespace, r.To, c.to) && port(r.Ports, c.port, c.protocol)
		})
	}) {
		return "egress of " + c.from.name
	}
	if c.from.node && slices.ContainsFunc(p.nodes, func(f fromNodes) bool {
		return f.namespace == c.to.namespace && matches(&f.selector, c.to.labels) && port(f.ports, c.port, c.protocol)
	}) {
		return ""
	}
	if !c.to.node && !p.allows(c.to, netv1.PolicyTypeIngress, func(np netv1.NetworkPolicy) bool {
		return slices.ContainsFunc(np.Spec.Ingress, func(r netv1.NetworkPolicyIngressRule) bool {
			return p.peer(np.Namespace, r.From, c.from) && port(r.Ports, c.port, c.protocol)
		})
	}) {
		return "ingress of " + c.to.name
	}
	return ""
}

// allows: no policy of this type selects it, or a rule of one that does allows it.
func (p policies) allows(who party, kind netv1.PolicyType, rule func(netv1.NetworkPolicy) bool) bool {
	isolated := false
	for _, np := range p.list {
		if np.Namespace != who.namespace || !matches(&np.Spec.PodSelector, who.labels) || !slices.Contains(np.Spec.PolicyTypes, kind) {
			continue
		}
		isolated = true
		if rule(np) {
			return true
		}
	}
	return !isolated
}

var node = party{name: "a node", node: true}

// manifests of an overlay: its pods, and what is said of who talks to whom.
type manifests struct {
	objs    []*unstructured.Unstructured
	parties []party
	found   []connection
}

// made are the pods that are in no manifest: those of checks and of people.
func made() []party {
	check := func(name string, more labels.Set) party {
		return party{name: name, namespace: "apps", labels: labels.Merge(labels.Set{runLabel: "0"}, more)}
	}
	return []party{
		check("a pod of the check alerts", labels.Set{label: "alerts"}),
		check("a pod of the check datapath", labels.Set{label: "datapath"}),
		{name: "the check of pulse", namespace: "apps", labels: labels.Set{"app.kubernetes.io/name": "pulse-check"}},
		{name: "a person's pod", namespace: "apps", labels: labels.Set{"app": "mine"}},
	}
}

func readManifests(t *testing.T, overlay string) *manifests {
	t.Helper()
	_, objs := rendered(t, overlay)
	m := &manifests{objs: objs, parties: made()}
	for _, w := range workloads(t, objs) {
		p := party{name: w.name, namespace: w.namespace, labels: w.labels, spec: w.spec, node: get(w.spec, "hostNetwork") == true}
		switch {
		case strings.HasPrefix(w.name, "Prometheus "):
			p.labels = labels.Merge(p.labels, labels.Set{"prometheus": "prometheus"})
			p.spec["containers"] = append(p.spec["containers"].([]any), portsOf("web", 9090, "reloader-web", 8080))
		case strings.HasPrefix(w.name, "Alertmanager "):
			p.labels = labels.Merge(p.labels, labels.Set{"alertmanager": "alertmanager"})
			p.spec["containers"] = append(p.spec["containers"].([]any), portsOf("web", 9093, "reloader-web", 8080))
		}
		m.parties = append(m.parties, p)
	}
	// What operators make of an object of theirs.
	m.parties = append(m.parties, party{name: "ScyllaDB", namespace: scyllaNamespace,
		labels: labels.Set{"scylla/cluster": "scylladb", "scylla-operator.scylladb.com/pod-type": "scylladb-node"},
		spec:   map[string]any{"containers": []any{portsOf("prometheus", 9180)}}},
		party{name: "the Job scylladb-roles", namespace: scyllaNamespace, labels: labels.Set{"app.kubernetes.io/name": "scylladb-roles"}},
		party{name: "a client of ScyllaDB", namespace: "apps", labels: labels.Set{"orrery.dev/scylladb": "client"}},
		party{name: "FoundationDB", namespace: fdbNamespace, labels: labels.Set{"foundationdb.org/fdb-cluster-name": "foundationdb"}},
		party{name: "a client of FoundationDB", namespace: "apps", labels: labels.Set{"orrery.dev/foundationdb": "client"}})
	return m
}

// portsOf is what the Prometheus operator adds to what it makes.
func portsOf(pairs ...any) map[string]any {
	var ports []any
	for i := 0; i < len(pairs); i += 2 {
		ports = append(ports, map[string]any{"name": pairs[i], "containerPort": int64(pairs[i+1].(int))})
	}
	return map[string]any{"ports": ports}
}

func (m *manifests) party(t *testing.T, name string) party {
	t.Helper()
	for _, p := range m.parties {
		if p.name == name {
			return p
		}
	}
	t.Fatalf("there is no %s", name)
	return party{}
}

func (m *manifests) add(from, to party, port int, protocol, why string) {
	m.found = append(m.found, connection{from, to, port, protocol, why})
}

// containerPort is the number behind a target port, which may be a name.
func (p party) containerPort(target any, otherwise int) int {
	switch v := target.(type) {
	case int64:
		return int(v)
	case string:
		containers, _ := p.spec["containers"].([]any)
		for _, c := range containers {
			ports, _ := c.(map[string]any)["ports"].([]any)
			for _, port := range ports {
				if port := port.(map[string]any); port["name"] == v {
					return int(port["containerPort"].(int64))
				}
			}
		}
		return 0
	}
	return otherwise
}

// behind calls f with the pods behind a Service and their port, for the Service's port that
// has the number or, else, the name; with neither for all.
func (m *manifests) behind(s *unstructured.Unstructured, number int, name string, f func(party, int)) {
	selector, _, _ := unstructured.NestedStringMap(s.Object, "spec", "selector")
	ports, _, _ := unstructured.NestedSlice(s.Object, "spec", "ports")
	for _, p := range m.parties {
		if len(selector) == 0 || p.namespace != s.GetNamespace() || !labels.SelectorFromSet(selector).Matches(p.labels) {
			continue
		}
		for _, port := range ports {
			port := port.(map[string]any)
			own, _ := port["port"].(int64)
			if number != 0 && text(s, "spec", "clusterIP") == "None" { // its name is the pods' own
				f(p, number)
				break
			}
			if number == int(own) || number == 0 && (name == "" || port["name"] == name) {
				f(p, p.containerPort(port["targetPort"], int(own)))
			}
		}
	}
}

func (m *manifests) service(namespace, name string) *unstructured.Unstructured {
	for _, o := range m.objs {
		if o.GetKind() == "Service" && o.GetNamespace() == namespace && o.GetName() == name {
			return o
		}
	}
	return nil
}

// configuration is all text that a workload is given: its own, and the ConfigMaps and Secrets
// that it names.
func (m *manifests) configuration(p party) string {
	own, _ := json.Marshal(p.spec)
	text := string(own)
	for _, o := range m.objs {
		given := o.GetNamespace() == p.namespace && (o.GetKind() == "ConfigMap" || o.GetKind() == "Secret") && strings.Contains(string(own), `"`+o.GetName()+`"`)
		if given || o.GetKind() == "AlertmanagerConfig" && strings.HasPrefix(p.name, "Alertmanager ") {
			for _, field := range []string{"data", "spec"} {
				more, _ := json.Marshal(decoded(o, field))
				text += string(more)
			}
		}
	}
	return text
}

// decoded is a field of an object, a Secret's data in the clear.
func decoded(o *unstructured.Unstructured, field string) any {
	values, _, _ := unstructured.NestedMap(o.Object, field)
	if o.GetKind() != "Secret" {
		return values
	}
	clear := map[string]string{}
	for k, v := range values {
		var b []byte
		if json.Unmarshal([]byte(`"`+fmt.Sprint(v)+`"`), &b) == nil {
			clear[k] = string(b)
		}
	}
	return clear
}

// named finds the Services that configurations name, as NAME.NAMESPACE, with or without a
// scheme, the rest of the domain and a port.
func (m *manifests) named(t *testing.T, namespaces map[string]labels.Set) {
	t.Helper()
	var known []string
	for name := range namespaces {
		known = append(known, name)
	}
	pattern := regexp.MustCompile(`(https?://)?(?:[a-z0-9-]+\.)?\b([a-z0-9][a-z0-9-]*)\.(` + strings.Join(known, "|") + `)((?:\.svc)?(?:\.cluster\.local)?\.?)(?::(\d+))?\b`)
	for _, p := range m.parties {
		for _, found := range pattern.FindAllStringSubmatch(m.configuration(p), -1) {
			s := m.service(found[3], found[2])
			if s == nil {
				if found[2] == "vault" && found[3] == "platform" {
					continue // pulse works without one
				}
				if found[4] != "" || found[5] != "" {
					t.Errorf("%s names %q, which is no Service of this overlay", p.name, found[0])
				}
				continue
			}
			number := 0
			switch {
			case found[5] != "":
				fmt.Sscan(found[5], &number)
			case found[1] == "http://":
				number = 80
			case found[1] == "https://":
				number = 443
			default:
				continue // a name, as of a certificate
			}
			some := false
			m.behind(s, number, "", func(to party, port int) {
				some = true
				m.add(p, to, port, "TCP", "its configuration says "+found[0])
			})
			if !some {
				t.Errorf("%s names %q, and nothing is behind it", p.name, found[0])
			}
		}
	}
}

// scraped adds what Prometheus has to reach.
func (m *manifests) scraped(t *testing.T) {
	t.Helper()
	prometheus := m.party(t, "Prometheus prometheus")
	for _, o := range m.objs {
		if o.GetKind() != "ServiceMonitor" && o.GetKind() != "PodMonitor" {
			continue
		}
		monitor, selector, err := readMonitor(*o)
		if err != nil {
			t.Fatal(err)
		}
		before := len(m.found)
		scope := monitor.NamespaceSelector.MatchNames
		if len(scope) == 0 {
			scope = []string{o.GetNamespace()}
		}
		for _, e := range monitor.Endpoints {
			for _, s := range m.objs {
				if s.GetKind() == "Service" && slices.Contains(scope, s.GetNamespace()) && selector.Matches(labels.Set(s.GetLabels())) {
					m.behind(s, 0, e.Port, func(to party, port int) { m.add(prometheus, to, port, "TCP", "ServiceMonitor "+o.GetName()) })
				}
			}
		}
		for _, e := range monitor.PodMetricsEndpoints {
			for _, to := range m.parties {
				if slices.Contains(scope, to.namespace) && selector.Matches(to.labels) {
					m.add(prometheus, to, to.containerPort(e.Port, int(e.PortNumber)), "TCP", "PodMonitor "+o.GetName())
				}
			}
		}
		if len(m.found) == before {
			t.Errorf("%s %s selects nothing", o.GetKind(), o.GetName())
		}
	}
	for _, port := range []int{6443, 2381, 10257, 10259, 10250, 9100} {
		m.add(prometheus, node, port, "TCP", "ScrapeConfigs of nodes")
	}
}

// asked adds the DNS and the API servers, for all who need them.
func (m *manifests) asked(t *testing.T) {
	t.Helper()
	dns := m.party(t, "Deployment coredns")
	for _, p := range m.parties {
		if policy := get(p.spec, "dnsPolicy"); !p.node && policy != "Default" && p.name != "DaemonSet local-path" { // that one finds the API without
			m.add(p, dns, 53, "UDP", "names")
			m.add(p, dns, 53, "TCP", "names")
		}
		if get(p.spec, "automountServiceAccountToken") == true {
			m.add(p, node, 6443, "TCP", "it has a token of the API")
			m.add(p, node, 443, "TCP", "it has a token of the API, whose Service may be looked at before its endpoint")
		}
	}
	m.add(node, dns, 53, "UDP", "processes of nodes, through their resolver")
	for _, o := range m.objs {
		if s := m.service(text(o, "spec", "service", "namespace"), text(o, "spec", "service", "name")); o.GetKind() == "APIService" && s != nil {
			m.behind(s, 0, "", func(to party, port int) { m.add(node, to, port, "TCP", "APIService "+o.GetName()) })
		}
	}
}

// TestEveryConnectionIsAllowed: what the components' manifests say of who talks to whom, and
// what no manifest says, is let out of the one and into the other.
func TestEveryConnectionIsAllowed(t *testing.T) {
	for _, overlay := range []string{"local", "prod"} {
		t.Run(overlay, func(t *testing.T) {
			m := readManifests(t, overlay)
			p := policiesOf(t, m.objs)
			m.named(t, p.namespaces)
			m.scraped(t)
			m.asked(t)
			derived := len(m.found)
			for _, c := range []struct {
				from, to string
				port     int
				protocol string
				why      string
			}{
				{"StatefulSet nats", "StatefulSet nats", 6222, "TCP", "routes"},
				{"a person's pod", "StatefulSet nats", 4222, "TCP", "clients"},
				{"a person's pod", "StatefulSet otel-gateway", 4317, "TCP", "telemetry"},
				{"a person's pod", "StatefulSet otel-gateway", 4318, "TCP", "telemetry"},
				{"a person's pod", "Deployment pulse-ingest", 8080, "TCP", "events"},
				{"a person's pod", "Deployment pulse-worker", 8080, "TCP", "the account"},
				{"the check of pulse", "Deployment pulse-ingest", 8080, "TCP", "events"},
				{"the check of pulse", "Deployment pulse-ingest", 8081, "TCP", "readiness"},
				{"the check of pulse", "Deployment pulse-worker", 8080, "TCP", "the account"},
				{"the check of pulse", "Deployment pulse-worker", 8081, "TCP", "readiness"},
				{"a pod of the check alerts", "Deployment pulse-ingest", 8080, "TCP", "what pulse was told"},
				{"Prometheus prometheus", "Alertmanager alertmanager", 9093, "TCP", "alerts"},
				{"Alertmanager alertmanager", "Alertmanager alertmanager", 9094, "UDP", "several replicas"},
				{"StatefulSet otel-gateway", "StatefulSet tempo", 4318, "TCP", "spans"},
				{"DaemonSet otel-agent", "StatefulSet loki", 3100, "TCP", "lines"},
				{"Deployment grafana", "Prometheus prometheus", 9090, "TCP", "data source"},
				{"Deployment grafana", "Alertmanager alertmanager", 9093, "TCP", "data source"},
				{"Deployment grafana", "StatefulSet loki", 3100, "TCP", "data source"},
				{"Deployment grafana", "StatefulSet tempo", 3200, "TCP", "data source"},
				// Through the API servers' proxy: orrery query, logs, trace, the console, verify.
				{"a node", "Prometheus prometheus", 9090, "TCP", "API servers' proxy"},
				{"a node", "Alertmanager alertmanager", 9093, "TCP", "API servers' proxy"},
				{"a node", "StatefulSet loki", 3100, "TCP", "API servers' proxy"},
				{"a node", "StatefulSet tempo", 3200, "TCP", "API servers' proxy"},
				{"a node", "StatefulSet otel-gateway", 4318, "TCP", "API servers' proxy"},
				{"StatefulSet otel-gateway", "Prometheus prometheus", 9090, "TCP", "metrics"},
				{"StatefulSet otel-gateway", "StatefulSet loki", 3100, "TCP", "lines"},
				{"ScyllaDB", "ScyllaDB", 7000, "TCP", "gossip and data"},
				{"ScyllaDB", "ScyllaDB", 10001, "TCP", "clean-up after nodes came or went"},
				{"ScyllaDB", "a node", 6443, "TCP", "its side container asks the API"},
				{"the Job scylladb-roles", "ScyllaDB", 9042, "TCP", "roles"},
				{"Deployment scylla-operator", "ScyllaDB", 10001, "TCP", "the agent"},
				{"Deployment scylla-operator", "a node", 6443, "TCP", "the API"},
				{"a node", "Deployment scylla-operator-webhook", 5000, "TCP", "admission"},
				{"a client of ScyllaDB", "ScyllaDB", 9142, "TCP", "clients, by TLS"},
				{"FoundationDB", "FoundationDB", 4500, "TCP", "each other"},
				{"FoundationDB", "a node", 6443, "TCP", "the labels of its node"},
				{"Deployment fdb-operator", "FoundationDB", 4500, "TCP", "status and configuration"},
				{"Deployment fdb-operator", "a node", 6443, "TCP", "the API"},
				{"a client of FoundationDB", "FoundationDB", 4500, "TCP", "clients"},
				{"a node", "a pod of the check datapath", 8080, "TCP", "ClusterIP from a node"},
				{"a pod of the check datapath", "a pod of the check datapath", 8080, "TCP", "the check"},
				{"a pod of the check datapath", "a node", 6443, "TCP", "readyz of each API server"},
			} {
				from, to := node, node
				if c.from != node.name {
					from = m.party(t, c.from)
				}
				if c.to != node.name {
					to = m.party(t, c.to)
				}
				m.add(from, to, c.port, c.protocol, c.why)
			}
			t.Logf("%d connections follow from the manifests, %d are listed here", derived, len(m.found)-derived)
			if derived < 60 {
				t.Errorf("only %d connections were found in the manifests: the search is broken", derived)
			}
			for _, c := range m.found {
				if c.port == 0 {
					t.Errorf("%v: the port has no number", c)
				} else if side := p.blocked(c); side != "" {
					t.Errorf("%s does not allow %v", side, c)
				}
			}
		})
	}
}

// others are namespaces that are everybody's, or nobody's.
func others() (found []party) {
	for _, namespace := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		found = append(found, party{name: "whoever comes", namespace: namespace})
	}
	return found
}

// TestTelemetryIsWrittenByCollectors: whoever has no network policy of his own, or has made one
// that lets him out, reaches none of what keeps telemetry, and the gateway from where that is
// meant alone. Labels of a pod are its owner's to choose.
func TestTelemetryIsWrittenByCollectors(t *testing.T) {
	for _, overlay := range []string{"local", "prod"} {
		m := readManifests(t, overlay)
		p := policiesOf(t, m.objs)
		p.namespace("free", nil)
		var attackers []party
		for _, name := range []string{"otel-gateway", "prometheus", "grafana", "otel-agent", "mine"} {
			attackers = append(attackers, party{name: "a pod of a namespace without policies that is labelled " + name, namespace: "free",
				labels: labels.Set{"app.kubernetes.io/name": name}})
		}
		attackers = append(attackers, m.party(t, "Deployment kube-state-metrics"), m.party(t, "DaemonSet otel-agent"))
		for _, from := range attackers {
			for _, to := range []struct {
				name  string
				ports []int
			}{
				{"Prometheus prometheus", []int{9090, 8080}},
				{"Alertmanager alertmanager", []int{9093, 8080, 9094}},
				{"StatefulSet loki", []int{3100}},
				{"StatefulSet tempo", []int{3200, 4318}},
				{"StatefulSet otel-gateway", []int{4317, 4318, 8888, 13133}},
			} {
				for _, port := range to.ports {
					if from.name == "DaemonSet otel-agent" && port == 3100 {
						continue // that is its work
					}
					// His own side does not count: he lets himself out.
					p := p
					p.list = append(slices.Clone(p.list), outOf(from))
					if c := (connection{from, m.party(t, to.name), port, "TCP", "forges, silences, deletes or reads"}); p.blocked(c) == "" {
						t.Errorf("%s: %v is allowed", overlay, c)
					}
				}
			}
		}
	}
}

// outOf is a policy with which somebody lets himself out.
func outOf(who party) netv1.NetworkPolicy {
	np := netv1.NetworkPolicy{Spec: netv1.NetworkPolicySpec{PolicyTypes: []netv1.PolicyType{netv1.PolicyTypeEgress}, Egress: []netv1.NetworkPolicyEgressRule{{}}}}
	np.Namespace = who.namespace
	return np
}

// TestNothingElseIsAllowed: the policies still shut out what nobody needs, and so does every
// namespace with pods in it what no policy speaks of.
func TestNothingElseIsAllowed(t *testing.T) {
	for _, overlay := range []string{"local", "prod"} {
		m := readManifests(t, overlay)
		p := policiesOf(t, m.objs)
		mine := m.party(t, "a person's pod")
		for _, c := range []connection{
			{mine, m.party(t, "Prometheus prometheus"), 9090, "TCP", "apps asks Prometheus"},
			{mine, m.party(t, "StatefulSet loki"), 3100, "TCP", "apps writes to Loki past the gateway"},
			{mine, m.party(t, "StatefulSet tempo"), 4318, "TCP", "apps writes to Tempo past the gateway"},
			{mine, m.party(t, "StatefulSet nats"), 6222, "TCP", "apps acts as a server"},
			{mine, m.party(t, "StatefulSet nats"), 8222, "TCP", "apps reads NATS's monitoring"},
			{mine, mine, 8080, "TCP", "apps among themselves"},
			{mine, m.party(t, "ScyllaDB"), 9142, "TCP", "apps asks ScyllaDB without the label"},
			{m.party(t, "a client of ScyllaDB"), m.party(t, "ScyllaDB"), 9042, "TCP", "a client comes without TLS"},
			{m.party(t, "a client of ScyllaDB"), m.party(t, "ScyllaDB"), 10001, "TCP", "a client asks the agent"},
			{mine, m.party(t, "FoundationDB"), 4500, "TCP", "apps asks FoundationDB without the label"},
			{m.party(t, "a client of FoundationDB"), m.party(t, "FoundationDB"), 4501, "TCP", "a client comes without TLS"},
			{m.party(t, "ScyllaDB"), m.party(t, "FoundationDB"), 4500, "TCP", "one database asks the other"},
			{mine, m.party(t, "Deployment pulse-ingest"), 8081, "TCP", "apps reads the metrics of pulse"},
			{m.party(t, "the check of pulse"), m.party(t, "StatefulSet nats"), 8222, "TCP", "pulse's check reads NATS's monitoring"},
			{m.party(t, "the check of pulse"), node, 6443, "TCP", "pulse's check asks the API"},
			{mine, node, 10250, "TCP", "apps asks a kubelet"},
			{mine, node, 2379, "TCP", "apps asks etcd"},
			{m.party(t, "Deployment grafana"), m.party(t, "StatefulSet nats"), 4222, "TCP", "dashboards ask NATS"},
			{m.party(t, "StatefulSet otel-gateway"), node, 6443, "TCP", "the gateway asks the API"},
			{m.party(t, "Deployment pulse-ingest"), node, 6443, "TCP", "pulse asks the API"},
			{node, m.party(t, "StatefulSet nats"), 4222, "TCP", "a node's process as a client"},
			{node, m.party(t, "Deployment pulse-ingest"), 8080, "TCP", "a node's process as a client"},
			{node, m.party(t, "Deployment kube-state-metrics"), 8080, "TCP", "a node's process"},
		} {
			if p.blocked(c) == "" {
				t.Errorf("%s: %v is allowed", overlay, c)
			}
		}
		for _, w := range append(m.parties, others()...) {
			if w.node {
				continue
			}
			anybody := party{name: "a pod without labels", namespace: w.namespace}
			for _, c := range []connection{{anybody, node, 80, "TCP", ""}, {mine, anybody, 80, "TCP", ""}} {
				if side := p.blocked(c); side == "" || c.to.namespace == w.namespace && p.blocked(connection{node, anybody, 80, "TCP", ""}) == "" {
					t.Errorf("%s: namespace %s of %s denies nothing by default", overlay, w.namespace, w.name)
				}
			}
		}
	}
}
