package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bpfNetwork is an environment whose network is Cilium: traffic between two nodes goes on
// while one that has no part in it is killed.
const bpfNetwork = "servers: 1\nagents: 2\nnetwork: {plugin: auto}\ncomponents: [namespaces, coredns, cilium]\n"

// TestCilium is a day of an environment with Cilium as its network. The subtests after "up"
// share it, and the pods of "pods".
func TestCilium(t *testing.T) {
	if limits() != "" {
		t.Skip("ORRERY_E2E_CORE leaves out what this is about")
	}
	e := newEnvironment(t, "bpf", bpfNetwork)
	_, sum := e.up(t)
	var st struct{ Network, NetworkReason string }
	if err := json.Unmarshal([]byte(e.run(t, "status", "-o", "json")), &st); err != nil {
		t.Fatal(err)
	}
	if st.Network != "cilium" {
		t.Skipf("this machine has %s: %s", st.Network, st.NetworkReason)
	}
	t.Logf("up: %v", sum.Seconds)
	journey := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			t.Cleanup(func() { e.keepSupport(t) })
			f(t)
		})
	}
	journey("verify", func(t *testing.T) { networkVerified(t, e) })
	journey("host", unchanged)
	n := networkPods(t, e)
	journey("host-port", func(t *testing.T) { n.hostPort(t) })
	journey("agents-killed", func(t *testing.T) { n.agentsKilled(t) })
	// Not right before agents die: what it ends takes the agent's DNS proxy out of the pods' way only
	// a moment later, and the proxy of a dead agent answers nobody.
	journey("names", func(t *testing.T) { n.onlyToNames(t) })
	journey("operator-killed", func(t *testing.T) { n.operatorKilled(t) })
	journey("node-killed", func(t *testing.T) { n.nodeKilled(t) })
	journey("stop-and-start", func(t *testing.T) { n.stoppedAndStarted(t) })
	journey("two-at-once", func(t *testing.T) { n.secondEnvironment(t) })
	t.Run("down", func(t *testing.T) {
		held := e.bpfHeld(t)
		t.Logf("down took %.1f s", e.down(t).Seconds)
		held.mustBeGone(t)
		bpfUnchanged(t)
	})
}

// networkVerified: both checks of the network are made, and pass.
func networkVerified(t *testing.T, e *environment) {
	v := e.verify(t, "cluster")
	for _, name := range []string{"datapath", "network-policy"} {
		found := false
		for _, c := range v.Checks {
			if c.Name == name {
				found = true
				t.Logf("%s in %.1f s: %s", name, c.Seconds, c.Detail)
				if c.State != "succeeded" {
					t.Errorf("%s %s: %s", name, c.State, c.Detail)
				}
			}
		}
		if !found {
			t.Errorf("there was no check %s", name)
		}
	}
}

// networked is an environment with a pod on each of two nodes and a Service before the second.
type networked struct {
	*environment
	client, server string // nodes
}

// probeImage is the image of the pods, with its digest.
func (e *environment) probeImage(t *testing.T) string {
	t.Helper()
	for line := range strings.Lines(e.run(t, "kubectl", "-n", "platform", "get", "configmap", "image-policy", "-o", "jsonpath={.data.images}")) {
		if strings.HasPrefix(line, "registry.orrery.internal/probe:") {
			return strings.TrimSpace(line)
		}
	}
	t.Fatal("the image policy does not name the probe")
	return ""
}

// networkPods starts them in apps, where nothing may talk unless a policy says so.
func networkPods(t *testing.T, e *environment) *networked {
	t.Helper()
	n := &networked{environment: e, client: "server1", server: "agent1"}
	manifest := ""
	for name, node := range map[string]string{"client": n.client, "server": n.server} {
		manifest += fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: net-%[1]s, namespace: apps, labels: {net: %[1]s}}
spec:
  nodeName: %[2]s
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: probe
      image: %[3]s
      args: [serve]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
---
`, name, node, e.probeImage(t))
	}
	manifest += `
apiVersion: v1
kind: Service
metadata: {name: net-server, namespace: apps}
spec:
  selector: {net: server}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: net, namespace: apps}
spec:
  podSelector: {matchExpressions: [{key: net, operator: Exists}]}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {matchLabels: {net: client}}}], ports: [{port: 8080}]}]
  egress: [{to: [{podSelector: {matchLabels: {net: server}}}], ports: [{port: 8080}]}]
`
	e.runWith(t, manifest, "kubectl", "apply", "-f", "-")
	e.run(t, "kubectl", "-n", "apps", "wait", "pod/net-client", "pod/net-server", "--for=condition=Ready", "--timeout=120s")
	n.connected(t)
	return n
}

// answers of what the client asks, by URL; "" where nobody answers.
func (n *networked) ask(ctx context.Context, urls ...string) (map[string]string, error) {
	return n.askFrom(ctx, "apps", "net-client", urls...)
}

// askFrom is ask from any pod of the probe.
func (n *networked) askFrom(ctx context.Context, namespace, pod string, urls ...string) (map[string]string, error) {
	args := append([]string{"kubectl", "-n", namespace, "exec", pod, "--", "/probe", "reach"}, urls...)
	r := n.invoke(ctx, nil, args...)
	if r.code != 0 || r.err != nil {
		return nil, fmt.Errorf("%v", r)
	}
	answers := map[string]string{}
	decoder := json.NewDecoder(strings.NewReader(r.stdout))
	for range urls {
		var got struct {
			URL     string
			Answers []string
			Error   string
		}
		if err := decoder.Decode(&got); err != nil {
			return nil, fmt.Errorf("%w in %s", err, r.stdout)
		}
		answers[got.URL] = strings.Join(got.Answers, " ")
	}
	return answers, nil
}

// connected waits until the client is answered by the server through the Service.
func (n *networked) connected(t *testing.T) {
	t.Helper()
	const url = "http://net-server/"
	eventually(t, "the client is answered by the server", restored, func(ctx context.Context) error {
		got, err := n.ask(ctx, url)
		if err == nil && got[url] != "net-server" {
			err = fmt.Errorf("%s answered %q", url, got[url])
		}
		return err
	})
}

// outside are addresses that belong to no node and no pod, though server1 has them: for the
// other nodes they are somewhere in the world.
const (
	outsideNamed = "198.51.100.7" // of TEST-NET-2, RFC 5737
	outsideOther = "198.51.100.8"
)

// onlyToNames: a pod that may go to a name reaches the addresses that the name has, and no
// others. The agent's DNS proxy is what tells Cilium of them.
func (n *networked) onlyToNames(t *testing.T) {
	stop := n.serveOutside(t, outsideNamed, outsideOther)
	defer stop()
	manifest := ""
	for name, address := range map[string]string{"net-named": outsideNamed, "net-other": outsideOther} {
		manifest += fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: apps}
spec: {clusterIP: None, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s, namespace: apps, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints: [{addresses: ["%[2]s"], conditions: {ready: true}}]
---
`, name, address)
	}
	manifest += `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: net-names, namespace: apps}
spec:
  endpointSelector: {matchLabels: {net: client}}
  egress:
    - toEndpoints: [{matchLabels: {k8s:io.kubernetes.pod.namespace: kube-system, k8s-app: kube-dns}}]
      toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*"}]}}]
    - toFQDNs: [{matchName: net-named.apps.svc.cluster.local}]
      toPorts: [{ports: [{port: "80", protocol: TCP}]}]
`
	n.runWith(t, manifest, "kubectl", "apply", "-f", "-")
	t.Cleanup(func() {
		n.invoke(context.Background(), strings.NewReader(manifest), "kubectl", "delete", "--wait=false", "-f", "-")
	})
	const (
		named, other = "http://net-named.apps.svc.cluster.local/", "http://net-other.apps.svc.cluster.local/"
		direct       = "http://" + outsideOther + "/"
	)
	eventually(t, "the name that is allowed answers", restored, func(ctx context.Context) error {
		got, err := n.ask(ctx, named)
		if err == nil && got[named] != outsideNamed {
			err = fmt.Errorf("%s answered %q", named, got[named])
		}
		return err
	})
	got, err := n.ask(t.Context(), named, other, direct)
	if err != nil {
		t.Fatal(err)
	}
	if got[named] != outsideNamed || got[other] != "" || got[direct] != "" {
		t.Errorf("only the name that is allowed may answer: %v", got)
	}
	eventually(t, "the flow of the question", restored, func(ctx context.Context) error {
		r := n.invoke(ctx, nil, "flows", "--pod", "apps/net-client", "--protocol", "dns", "-o", "json")
		if r.code != 0 || r.err != nil || !strings.Contains(r.stdout, "net-named.apps.svc.cluster.local") {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	// Rules that only Envoy could enforce are refused.
	http := strings.Replace(manifest[strings.Index(manifest, "apiVersion: cilium.io/v2"):], `rules: {dns: [{matchPattern: "*"}]}`, "rules: {http: [{method: GET}]}", 1)
	if r := n.invoke(t.Context(), strings.NewReader(http), "kubectl", "apply", "-f", "-"); r.code == 0 || !strings.Contains(r.stderr, "need Envoy") {
		t.Errorf("a rule of HTTP must be refused with the reason: %v", r)
	}
}

// serveOutside gives a node that is not the client's further addresses, with a server on each
// that answers with the address, and the client's node a route there.
func (n *networked) serveOutside(t *testing.T, addresses ...string) (stop func()) {
	t.Helper()
	nodes := n.nodes(t)
	client, host := nodes[n.client], nodes[n.server]
	enter := func(of node, args ...string) error {
		args = append([]string{"--target", fmt.Sprint(of.pid("kubelet")), "--net"}, args...)
		out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "nsenter", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("nsenter %v: %w: %s", args, err, out)
		}
		return nil
	}
	var servers []*http.Server
	for _, address := range addresses {
		if err := errors.Join(
			enter(host, "ip", "address", "replace", address+"/32", "dev", "lo"),
			enter(client, "ip", "route", "replace", address+"/32", "via", host.Address),
		); err != nil {
			t.Fatal(err)
		}
		listener, err := listenIn(host.pid("kubelet"), address+":80")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, address) })}
		servers = append(servers, server)
		go func() { _ = server.Serve(listener) }()
	}
	return func() {
		for i, server := range servers {
			_ = server.Close()
			_ = enter(host, "ip", "address", "delete", addresses[i]+"/32", "dev", "lo")
			_ = enter(client, "ip", "route", "delete", addresses[i]+"/32")
		}
	}
}

// listenIn listens in the network namespace of a process.
func listenIn(pid int, address string) (listener net.Listener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		ns, openErr := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
		if err = openErr; err != nil {
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		listener, err = net.Listen("tcp4", address)
	}()
	<-done
	return listener, err
}

// agentsKilled: the agents of both ends die under a stream of requests, and no request fails.
func (n *networked) agentsKilled(t *testing.T) {
	stdin, stop := io.Pipe()
	defer stop.Close()
	ended := make(chan result, 1)
	go func() {
		ended <- n.invoke(t.Context(), stdin, "kubectl", "-n", "apps", "exec", "-i", "net-client", "--", "/probe", "stream", "-", "http://net-server/")
	}()
	for _, name := range []string{n.client, n.server} {
		n.killedAndBack(t, name, "cilium-agent")
	}
	n.becomesReady(t, restored)
	n.verify(t, "cluster") // with new pods everywhere, so that the agents do all of their work again
	stop.Close()
	r := <-ended
	if r.code != 0 || r.err != nil {
		t.Fatal(r)
	}
	decoder := json.NewDecoder(strings.NewReader(r.stdout))
	for range 2 {
		var got struct {
			Connections      string
			Requests, Failed int
			Error, At        string
			Slowest          float64
		}
		if err := decoder.Decode(&got); err != nil {
			t.Fatalf("%v in %s", err, r.stdout)
		}
		t.Logf("%s connections: %d requests, %d failed, the slowest took %.3f s", got.Connections, got.Requests, got.Failed, got.Slowest)
		if got.Failed > 0 || got.Requests < 50 {
			t.Errorf("%+v", got)
		}
	}
}

// killedAndBack kills a service of a node and waits until it runs again.
func (n *networked) killedAndBack(t *testing.T, name, service string) {
	t.Helper()
	old := n.nodes(t)[name].pid(service)
	if old == 0 {
		t.Fatalf("%s of %s does not run", service, name)
	}
	kill(t, old)
	took := eventually(t, service+" of "+name+" runs again", restored, func(context.Context) error {
		if now := n.nodes(t)[name].pid(service); now == 0 || now == old {
			return fmt.Errorf("its PID is %d, was %d", now, old)
		}
		return nil
	})
	t.Logf("%s of %s runs again after %.1f s", service, name, took.Seconds())
}

// operatorKilled: another one takes over, which here also has less patience than by default with
// identities that nobody has any more.
func (n *networked) operatorKilled(t *testing.T) {
	n.impatientOperator(t)
	n.killedAndBack(t, "server1", "cilium-operator")
	n.connected(t)
	n.becomesReady(t, restored)
	n.verify(t, "cluster") // with pods that are new to the operator, and are gone again
	eventually(t, "identities of pods that are gone are collected", collected, func(ctx context.Context) error {
		r := n.invoke(ctx, nil, "kubectl", "get", "ciliumidentities", "-o", "jsonpath={.items[*].security-labels}")
		if r.code != 0 || r.err != nil || strings.Contains(r.stdout, "orrery.dev/smoke") {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
}

// collected bounds the wait for identities: after heartbeats have not come for its half they are
// marked, and in the next round removed.
const collected = 2 * time.Minute

// impatientOperator changes what the operator is told when it starts the next time. The driver
// writes the file again when the node starts.
func (n *networked) impatientOperator(t *testing.T) {
	t.Helper()
	file := n.state("nodes", "server1", "etc", "kubernetes", "cilium-operator.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	config := map[string]string{}
	if err := json.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	config["identity-heartbeat-timeout"], config["identity-gc-interval"] = "20s", "5s"
	if text, err = json.Marshal(config); err == nil {
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// nodeKilled: traffic between the others goes on, and the node comes back to it.
func (n *networked) nodeKilled(t *testing.T) {
	n.powerLoss(t, "agent2")
	n.connected(t)
	n.becomesReady(t, restored)
	n.verify(t, "cluster")
}

// addresses are all that Cilium keeps of the nodes: theirs, its own on them, their ranges.
func (n *networked) addresses(t *testing.T) []string {
	t.Helper()
	out := n.run(t, "kubectl", "get", "ciliumnodes", "-o", `jsonpath={range .items[*]}{.metadata.name}{" "}{.spec.addresses}{" "}{.spec.ipam.podCIDRs}{"\n"}{end}`)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	slices.Sort(lines)
	return lines
}

func (n *networked) stoppedAndStarted(t *testing.T) {
	before := n.addresses(t)
	if len(before) != 3 {
		t.Errorf("Cilium knows of %v", before)
	}
	n.run(t, "stop")
	held := n.bpfHeld(t)
	if len(held) > 0 {
		t.Errorf("stop left %d BPF objects", len(held))
	}
	n.run(t, "start")
	n.becomesReady(t, restored)
	eventually(t, "the same addresses", restored, func(context.Context) error {
		if after := n.addresses(t); !slices.Equal(before, after) {
			return fmt.Errorf("%v, before %v", after, before)
		}
		return nil
	})
	n.connected(t)
	n.verify(t, "cluster", "coredns")
}

// secondEnvironment: one beside the other, with the same ranges; what ends the one leaves
// the other its programs.
func (n *networked) secondEnvironment(t *testing.T) {
	second := newEnvironment(t, "bpf2", "servers: 1\nagents: 0\nnetwork: {plugin: cilium}\ncomponents: [namespaces, coredns, cilium]\n")
	_, sum := second.up(t)
	t.Logf("one node beside three: %v", sum.Seconds)
	networkVerified(t, second)
	n.connected(t)
	held, theirs := n.bpfHeld(t), second.bpfHeld(t)
	if len(held) == 0 || len(theirs) == 0 {
		t.Errorf("BPF objects: %d and %d", len(held), len(theirs))
	}
	second.down(t)
	theirs.mustBeGone(t)
	if now := n.bpfHeld(t); len(now) < len(held)*9/10 {
		t.Errorf("the first had %d BPF objects before the second's down, and has %d", len(held), len(now))
	}
	n.connected(t)
	n.verify(t, "cluster")
}
