package smoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/check"
)

const (
	// meshSize bounds the nodes that the datapath check looks at: every one asks every other.
	meshSize = 6
	// spreadAsks is how often a Service is asked by all clients together, to see that it has
	// more than one pod behind it: by chance always the same one answers less than once in
	// 2^39 runs.
	spreadAsks = 40
	// affinityAsks is how often each client asks the Service that has to give it the same pod.
	affinityAsks = 6
)

// mesh is a pod on each of several nodes and the Services before them.
type mesh struct {
	s     *sandbox
	peers []peer
	host  string // name of the pod in the network of the first node; "" where none may be
	why   string // there is no such pod

	plain, sticky, local, lonely string // Services' names
	address                      map[string]string
	nodePort                     int64
	nodes                        map[string]string // node → address
}

// peer is one pod of a mesh.
type peer struct{ name, node, zone, address string }

// datapath: from a pod on every node and from a node itself, everything that a cluster's
// network has to carry arrives at the right place.
func datapath(ctx context.Context, env Env) check.Result {
	return inSandbox(ctx, env, "datapath", func(s *sandbox) (string, error) {
		m, err := s.mesh(ctx)
		if err != nil {
			return "", err
		}
		var g errgroup.Group
		seen := make([]map[string]bool, len(m.peers))
		for i := range m.peers {
			g.Go(func() (err error) {
				seen[i], err = m.fromPod(ctx, i)
				return err
			})
		}
		g.Go(func() error { return m.fromNode(ctx) })
		if err := g.Wait(); err != nil {
			return "", err
		}
		if err := m.spread(seen); err != nil {
			return "", err
		}
		if err := m.stayLocal(ctx); err != nil {
			return "", err
		}
		zones := map[string]bool{}
		for _, p := range m.peers {
			zones[p.zone] = true
		}
		from := "from a process of " + m.peers[0].node + " too"
		if m.host == "" {
			from = "not tried from a node: " + m.why
		}
		named := "NodePort and name of a Service"
		if !m.named() {
			named = "and NodePort of a Service (without component coredns it has no name)"
		}
		return fmt.Sprintf("pods on %d nodes in %d zones reach each other, ClusterIP, %s, themselves through it, "+
			"the same pod by session affinity and only their node's by internalTrafficPolicy; %s", len(m.peers), len(zones), named, from), nil
	})
}

// mesh starts the pods and makes the Services, all side by side.
func (s *sandbox) mesh(ctx context.Context) (*mesh, error) {
	peers, addresses, err := meshNodes(ctx, s.env)
	if err != nil {
		return nil, err
	}
	m := &mesh{s: s, peers: peers, nodes: addresses, address: map[string]string{}}
	g, gctx := errgroup.WithContext(ctx)
	all := map[string]any{runLabel: s.id, meshLabel: "yes"}
	for _, service := range []struct {
		part     string
		name     *string
		selector map[string]any
		extra    map[string]any
	}{
		{"plain", &m.plain, all, map[string]any{"type": "NodePort"}},
		{"sticky", &m.sticky, all, map[string]any{"sessionAffinity": "ClientIP"}},
		{"local", &m.local, all, map[string]any{"internalTrafficPolicy": "Local"}},
		{"lonely", &m.lonely, s.selector("mesh0"), map[string]any{"internalTrafficPolicy": "Local"}},
	} {
		*service.name = s.name(service.part)
		spec := map[string]any{
			"selector": service.selector,
			"ports":    []any{map[string]any{"port": int64(80), "targetPort": int64(8080), "protocol": "TCP"}},
		}
		maps.Copy(spec, service.extra)
		g.Go(func() error {
			return s.create(gctx, map[string]any{
				"apiVersion": "v1", "kind": "Service",
				"metadata": map[string]any{"name": *service.name}, "spec": spec,
			})
		})
	}
	for i := range m.peers {
		g.Go(func() (err error) {
			m.peers[i].name, err = s.pod(gctx, pod{part: "mesh" + strconv.Itoa(i), command: []string{"serve"}, node: m.peers[i].node, labels: map[string]string{meshLabel: "yes"}})
			if err != nil {
				return err
			}
			p, err := s.started(gctx, m.peers[i].name)
			if err != nil {
				return err
			}
			m.peers[i].address = text(p, "status", "podIP")
			return nil
		})
	}
	g.Go(func() error {
		name, err := s.pod(gctx, pod{part: "host", command: []string{"sleep"}, node: m.peers[0].node, host: true})
		if apierrors.IsForbidden(err) {
			m.why = "a pod in the network of its node is refused in " + hostNamespace
			return nil
		}
		if err != nil {
			return err
		}
		m.host = name
		_, err = s.startedIn(gctx, hostNamespace, name)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return m, m.readServices(ctx)
}

// meshLabel is what the Services before all pods of a mesh select.
const meshLabel = "orrery.dev/smoke-mesh"

func (m *mesh) readServices(ctx context.Context) error {
	for _, name := range []string{m.plain, m.sticky, m.local, m.lonely} {
		o, err := m.s.env.Client.Get(ctx, "v1", "Service", namespace, name)
		if err != nil {
			return fmt.Errorf("the Service %s: %w", name, err)
		}
		if m.address[name] = text(o, "spec", "clusterIP"); m.address[name] == "" {
			return fmt.Errorf("the Service %s has no address", name)
		}
		if name != m.plain {
			continue
		}
		ports, _, _ := unstructured.NestedSlice(o.Object, "spec", "ports")
		if len(ports) > 0 {
			m.nodePort, _, _ = unstructured.NestedInt64(ports[0].(map[string]any), "nodePort")
		}
		if m.nodePort == 0 {
			return fmt.Errorf("the Service %s is of type NodePort and has no port on the nodes", name)
		}
	}
	return nil
}

// meshNodes picks Ready nodes that take pods, from all zones in turn, and gives the addresses
// of those.
func meshNodes(ctx context.Context, env Env) ([]peer, map[string]string, error) {
	found, err := nodesByName(ctx, env)
	if err != nil {
		return nil, nil, fmt.Errorf("list nodes: %w", err)
	}
	byZone, addresses := map[string][]peer{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		n := found[name]
		if closed, _, _ := unstructured.NestedBool(n.Object, "spec", "unschedulable"); closed || !ready(n) {
			continue
		}
		zone := n.GetLabels()[zoneLabel]
		byZone[zone] = append(byZone[zone], peer{node: name, zone: zone, address: internalIP(n)})
	}
	var peers []peer
	for len(byZone) > 0 && len(peers) < meshSize {
		for _, zone := range slices.Sorted(maps.Keys(byZone)) {
			if len(peers) < meshSize {
				p := byZone[zone][0]
				addresses[p.node] = p.address
				p.address = ""
				peers = append(peers, p)
			}
			if byZone[zone] = byZone[zone][1:]; len(byZone[zone]) == 0 {
				delete(byZone, zone)
			}
		}
	}
	if len(peers) == 0 {
		return nil, nil, errors.New("no node is Ready and takes pods")
	}
	return peers, addresses, nil
}

// ask is one URL to reach, and what has to come of it.
type ask struct {
	url    string
	what   string // for a person
	times  int
	judge  func(answers []string) error
	silent bool // nobody may answer
}

// answeredBy wants every answer from one of names.
func answeredBy(names ...string) func([]string) error {
	return func(answers []string) error {
		for _, a := range answers {
			if !slices.Contains(names, a) {
				return fmt.Errorf("answered by %q, want %s", a, strings.Join(names, " or "))
			}
		}
		return nil
	}
}

// same wants all answers from one and the same of names.
func same(names ...string) func([]string) error {
	return func(answers []string) error {
		if err := answeredBy(names...)(answers); err != nil {
			return err
		}
		if got := slices.Compact(slices.Sorted(slices.Values(answers))); len(got) > 1 {
			return fmt.Errorf("answered by %s in turn, want always the same pod", strings.Join(got, ", "))
		}
		return nil
	}
}

func (m *mesh) names() (names []string) {
	for _, p := range m.peers {
		names = append(names, p.name)
	}
	return names
}

// cluster is what has to be reached from every pod and from every node alike.
func (m *mesh) cluster() []ask {
	asks := []ask{
		{url: "http://" + m.address[m.plain] + "/", what: "the ClusterIP of " + m.plain,
			times: max(4, (spreadAsks+len(m.peers)-1)/len(m.peers)), judge: answeredBy(m.names()...)},
		{url: "http://" + m.address[m.sticky] + "/", what: "session affinity of " + m.sticky, times: affinityAsks, judge: same(m.names()...)},
	}
	for _, node := range slices.Sorted(maps.Keys(m.nodes)) {
		asks = append(asks, ask{
			url:  "http://" + net.JoinHostPort(m.nodes[node], strconv.FormatInt(m.nodePort, 10)) + "/",
			what: "the NodePort of " + node, judge: answeredBy(m.names()...),
		})
	}
	for _, p := range m.peers {
		asks = append(asks, ask{url: "http://" + net.JoinHostPort(p.address, "8080") + "/", what: "the pod on " + p.node, judge: answeredBy(p.name)})
	}
	return asks
}

// named says whether this environment has Services' names.
func (m *mesh) named() bool { return slices.Contains(m.s.env.Components, "coredns") }

// fromPod asks everything from one pod, and returns who answered for the plain Service.
func (m *mesh) fromPod(ctx context.Context, i int) (map[string]bool, error) {
	p := m.peers[i]
	asks := append(m.cluster(),
		ask{url: "http://" + m.address[m.local] + "/", what: "itself through internalTrafficPolicy Local of " + m.local, times: 4, judge: answeredBy(p.name)})
	if m.named() {
		asks = append(asks, ask{url: fmt.Sprintf("http://%s.%s.svc.%s/", m.plain, namespace, m.s.env.ClusterDomain),
			what: "the name of " + m.plain, judge: answeredBy(m.names()...)})
	}
	seen := map[string]bool{}
	return seen, until(ctx, settle, func() error {
		results, err := m.s.reach(ctx, namespace, p.name, asks)
		if err != nil {
			return fmt.Errorf("from %s: %w", p.node, err)
		}
		for _, a := range results[0].Answers {
			seen[a] = true
		}
		return nil
	})
}

func (m *mesh) fromNode(ctx context.Context) error {
	if m.host == "" {
		return nil
	}
	return until(ctx, settle, func() error {
		if _, err := m.s.reach(ctx, hostNamespace, m.host, m.cluster()); err != nil {
			return fmt.Errorf("from a process of %s: %w", m.peers[0].node, err)
		}
		return nil
	})
}

// spread: all pods behind a Service get their share.
func (m *mesh) spread(seen []map[string]bool) error {
	all := map[string]bool{}
	for _, s := range seen {
		maps.Copy(all, s)
	}
	if len(m.peers) > 1 && len(all) < 2 {
		return fmt.Errorf("%d pods are behind the Service %s, and %s answered every time", len(m.peers), m.plain, list(all))
	}
	return nil
}

// stayLocal: a Service that has no pod on this node and may use no other one is silent. Its
// rules came with those of the Services that did answer.
func (m *mesh) stayLocal(ctx context.Context) error {
	if len(m.peers) < 2 {
		return nil
	}
	p := m.peers[len(m.peers)-1]
	_, err := m.s.reach(ctx, namespace, p.name, []ask{{
		url: "http://" + m.address[m.lonely] + "/", what: fmt.Sprintf("internalTrafficPolicy Local of %s,"+
			" whose only pod is on %s", m.lonely, m.peers[0].node), silent: true,
	}})
	if err != nil {
		return fmt.Errorf("from %s: %w", p.node, err)
	}
	return nil
}

// reached is a line of what `probe reach` prints; see apps/probe.
type reached struct {
	URL     string
	Answers []string
	Failed  int
	Error   string
}

// reach runs all asks at once from a pod and judges what came, all of it in one error.
func (s *sandbox) reach(ctx context.Context, namespace, pod string, asks []ask) ([]reached, error) {
	args := []string{"reach"}
	for _, a := range asks {
		args = append(args, fmt.Sprintf("%d*%s", max(1, a.times), a.url))
	}
	out, err := s.execIn(ctx, namespace, pod, args...)
	if err != nil {
		return nil, err
	}
	results := make([]reached, len(asks))
	decoder := json.NewDecoder(strings.NewReader(out))
	var errs []error
	for i, a := range asks {
		if err := decoder.Decode(&results[i]); err != nil {
			return nil, fmt.Errorf("read what probe reach printed: %w in %q", err, out)
		}
		r := results[i]
		switch {
		case a.silent && len(r.Answers) > 0:
			errs = append(errs, fmt.Errorf("%s: %s answered %q, want no answer", a.what, a.url, r.Answers[0]))
		case a.silent:
		case r.Failed > 0:
			errs = append(errs, fmt.Errorf("%s: %d of %d requests to %s failed: %s", a.what, r.Failed, r.Failed+len(r.Answers), a.url, r.Error))
		default:
			if err := a.judge(r.Answers); err != nil {
				errs = append(errs, fmt.Errorf("%s: %s %w", a.what, a.url, err))
			}
		}
	}
	if more := len(errs) - 3; more > 0 {
		errs = append(errs[:3], fmt.Errorf("and %d more", more))
	}
	var lines []string
	for _, err := range errs {
		lines = append(lines, err.Error())
	}
	if lines != nil {
		return results, errors.New(strings.Join(lines, "; "))
	}
	return results, nil
}
