package smoke

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/spec"
)

const (
	zoneLabel     = "topology.kubernetes.io/zone"
	rackLabel     = "rack"
	hostnameLabel = "kubernetes.io/hostname"
	roleLabel     = "node-role.kubernetes.io/control-plane"
	// apiPort of every API server on its node.
	apiPort = 6443
)

// nodes: exactly the nodes of the spec are registered, every one is Ready and short of nothing,
// and the driver sees it run. Kubernetes takes most of a minute to notice that a node is gone.
func nodes(ctx context.Context, env Env) check.Result {
	stopped, dead, full := seenNodes(ctx, env)
	if full != "" {
		return check.Fail(errors.New(full))
	}
	if stopped != nil {
		return check.Fail(fmt.Errorf("stopped by a person: %s; `orrery node start %s` brings it back", strings.Join(stopped, ", "), stopped[0]))
	} else if dead != nil {
		return check.Wait("not running: %s", strings.Join(dead, ", "))
	}
	found, err := nodesByName(ctx, env)
	if err != nil {
		return check.Wait("list nodes: %v", err)
	}
	var missing, notReady, short []string
	expected := env.topology()
	for _, n := range expected {
		o, ok := found[n.Name]
		delete(found, n.Name)
		if !ok {
			missing = append(missing, n.Name)
			continue
		}
		if c := kube.StatusCondition(o, "Ready"); !c.True() {
			notReady = append(notReady, strings.TrimSpace(n.Name+" "+c.Message))
		} else if found := kube.NodePressures(o); found != nil {
			short = append(short, n.Name+" "+strings.Join(found, ", "))
		}
	}
	var problems []string
	if missing != nil {
		problems = append(problems, "not registered: "+strings.Join(missing, ", "))
	}
	if notReady != nil {
		problems = append(problems, "not Ready: "+strings.Join(notReady, "; "))
	}
	if short != nil {
		problems = append(problems, "Ready, but short of something: "+strings.Join(short, "; "))
	}
	if len(found) > 0 {
		problems = append(problems, "not in the spec: "+strings.Join(slices.Sorted(maps.Keys(found)), ", "))
	}
	if problems == nil {
		return check.OK("%d of %d nodes are Ready", len(expected), len(expected))
	}
	return check.Wait("%s", strings.Join(problems, "; "))
}

// seenNodes are those that the driver does not see running, and the disk below all of them if it is full.
func seenNodes(ctx context.Context, env Env) (stopped, dead []string, full string) {
	if env.Observe == nil {
		return nil, nil, ""
	}
	seen, err := env.Observe(ctx)
	if err != nil {
		return nil, nil, "" // the cluster itself has more to say
	}
	for _, n := range seen.Nodes {
		switch {
		case n.Stopped:
			stopped = append(stopped, n.Name)
		case !n.Running:
			dead = append(dead, n.Name)
		}
	}
	return stopped, dead, seen.Full
}

// topology: every node carries the zone, the rack and the role that the spec gives it,
// so that what is spread over zones really is.
func topology(ctx context.Context, env Env) check.Result {
	found, err := nodesByName(ctx, env)
	if err != nil {
		return check.Wait("list nodes: %v", err)
	}
	var wrong []string
	zones, racks := map[string]bool{}, map[string]bool{}
	for _, n := range env.topology() {
		o, ok := found[n.Name]
		if !ok {
			return check.Wait("node %s is not registered", n.Name)
		}
		zones[n.Zone], racks[n.Rack] = true, true
		labels := o.GetLabels()
		for label, want := range map[string]string{zoneLabel: n.Zone, rackLabel: n.Rack} {
			if labels[label] != want {
				wrong = append(wrong, fmt.Sprintf("%s has %s=%q, want %q", n.Name, label, labels[label], want))
			}
		}
		if _, server := labels[roleLabel]; server != (n.Role == spec.RoleServer) {
			wrong = append(wrong, fmt.Sprintf("%s is a %s, but its label %s says otherwise", n.Name, n.Role, roleLabel))
		}
		if ip := internalIP(o); ip != n.Address.String() {
			wrong = append(wrong, fmt.Sprintf("%s has address %s, want %s", n.Name, ip, n.Address))
		}
	}
	if wrong != nil {
		slices.Sort(wrong)
		return check.Wait("%s", strings.Join(wrong, "; ")) // labels are put on a moment after a node registers
	}
	return check.OK("%d zones, %d racks; zone, rack, role and address of every node are those of the spec", len(zones), len(racks))
}

func nodesByName(ctx context.Context, env Env) (map[string]*unstructured.Unstructured, error) {
	list, err := env.Client.List(ctx, "v1", "Node", "", "")
	if err != nil {
		return nil, err
	}
	byName := map[string]*unstructured.Unstructured{}
	for i := range list {
		byName[list[i].GetName()] = &list[i]
	}
	return byName, nil
}

func servers(env Env) (servers []spec.Node) {
	for _, n := range env.topology() {
		if n.Role == spec.RoleServer {
			servers = append(servers, n)
		}
	}
	return servers
}

// apiServers: the balancer answers, the Service "kubernetes" has every server behind it,
// and every server says itself that it is ready. A pod asks them one by one: the balancer
// and the Service would hide a dead one.
func apiServers(ctx context.Context, env Env) check.Result {
	return inSandbox(ctx, env, "apiservers", func(s *sandbox) (string, error) {
		if err := until(ctx, settle, func() error { _, err := env.Client.RawGet(ctx, "/readyz"); return err }); err != nil {
			return "", fmt.Errorf("through the balancer: %w", err)
		}
		expected := map[string]bool{}
		for _, n := range servers(env) {
			expected[n.Address.String()] = true
		}
		if err := until(ctx, settle, func() error { return kubernetesEndpoints(ctx, env, expected) }); err != nil {
			return "", err
		}
		ready, err := s.readyz(ctx)
		if err != nil {
			return "", err
		}
		for name, report := range ready {
			if !strings.Contains(report, "readyz check passed") {
				return "", fmt.Errorf("API server of %s is not ready: %s", name, failedLines(report))
			}
		}
		return fmt.Sprintf("%d of %d API servers are ready, behind the Service and the balancer", len(ready), len(expected)), nil
	})
}

// kubernetesEndpoints compares the endpoints of the Service "kubernetes", which the API
// servers write themselves, with the servers of the spec.
func kubernetesEndpoints(ctx context.Context, env Env, expected map[string]bool) error {
	slices_, err := env.Client.List(ctx, "discovery.k8s.io/v1", "EndpointSlice", "default", "kubernetes.io/service-name=kubernetes")
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for _, slice := range slices_ {
		endpoints, _, _ := unstructured.NestedSlice(slice.Object, "endpoints")
		for _, e := range endpoints {
			addresses, _, _ := unstructured.NestedStringSlice(e.(map[string]any), "addresses")
			for _, a := range addresses {
				found[a] = true
			}
		}
	}
	if !maps.Equal(found, expected) {
		return fmt.Errorf("the Service kubernetes has %s behind it, want %s", list(found), list(expected))
	}
	return nil
}

// readyz asks every API server, from a pod and by its own address, what it says of itself:
// server name → body.
func (s *sandbox) readyz(ctx context.Context) (map[string]string, error) {
	name, err := s.pod(ctx, pod{part: "client", command: []string{"serve"}, ca: true})
	if err != nil {
		return nil, err
	}
	if _, err := s.started(ctx, name); err != nil {
		return nil, err
	}
	reports := map[string]string{}
	var errs []error
	for _, n := range servers(s.env) {
		// One that was just restarted says for some seconds that it is not ready yet.
		var body string
		err := until(ctx, settle, func() (err error) {
			body, err = s.exec(ctx, name, "get", fmt.Sprintf("https://%s:%d/readyz?verbose", n.Address, apiPort))
			return err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("API server of %s: %w", n.Name, err))
			continue
		}
		reports[n.Name] = body
	}
	return reports, errors.Join(errs...)
}

// etcd: every server's member runs, and every API server reads through it. The "etcd"
// part of an API server's /readyz is a linearizable read, which only a quorum can answer;
// but the API servers may turn to each other's members, so a member that does not run is
// looked for at the driver. Members are not asked directly: their port takes the API
// servers' own certificates only, and a check has none of them.
func etcd(ctx context.Context, env Env) check.Result {
	return inSandbox(ctx, env, "etcd", func(s *sandbox) (string, error) {
		members := servers(env)
		running := "members not seen: there is no driver to ask"
		if env.Observe != nil {
			err := until(ctx, settle, func() error {
				seen, err := env.Observe(ctx)
				if err != nil {
					return err
				}
				return membersRun(members, seen)
			})
			if err != nil {
				return "", err
			}
			running = fmt.Sprintf("%d of %d members run", len(members), len(members))
		}
		reports, err := s.readyz(ctx)
		if err != nil {
			return "", err
		}
		for name, report := range reports {
			for _, part := range []string{"[+]etcd ok", "[+]etcd-readiness ok"} {
				if !strings.Contains(report, part) {
					return "", fmt.Errorf("API server of %s does not reach an etcd quorum: no %q in: %s", name, part, failedLines(report))
				}
			}
		}
		return fmt.Sprintf("%s, and each of %d API servers reads through a quorum", running, len(reports)), nil
	})
}

func membersRun(members []spec.Node, seen driver.Observation) error {
	// Services of some drivers are processes of another machine: then their nodes must do.
	processes := slices.ContainsFunc(seen.Nodes, func(n driver.Node) bool {
		return slices.ContainsFunc(n.Services, func(s driver.Service) bool { return s.PID != 0 })
	})
	running := map[string]bool{}
	for _, n := range seen.Nodes {
		for _, service := range n.Services {
			if n.Running && service.Name == "etcd" && (service.PID != 0 || !processes) {
				running[n.Name] = true
			}
		}
	}
	var down []string
	for _, m := range members {
		if !running[m.Name] {
			down = append(down, m.Name)
		}
	}
	if down != nil {
		return fmt.Errorf("etcd does not run on %s; a quorum needs %d of %d (`orrery logs %s/etcd`)", strings.Join(down, ", "), len(members)/2+1, len(members), down[0])
	}
	return nil
}

// failedLines are the lines of a health report that do not say [+].
func failedLines(report string) string {
	var failed []string
	for line := range strings.Lines(report) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "[+]") {
			failed = append(failed, line)
		}
	}
	return strings.Join(failed, "; ")
}

func list(set map[string]bool) string {
	if len(set) == 0 {
		return "nothing"
	}
	return strings.Join(slices.Sorted(maps.Keys(set)), ", ")
}
