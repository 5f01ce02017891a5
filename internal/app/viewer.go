package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/console"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/observe"
	"github.com/orrery-dev/orrery/internal/spec"
)

// viewer sees for the console how everything is. What costs more to ask is asked less often.
type viewer struct {
	environment *environment.Environment
	log         *slog.Logger
	ctx         context.Context // of links
	links       bool

	mu     sync.Mutex
	client *kube.Client
	made   time.Time // of the kubeconfig that client was made with
	opened map[string]string
	wg     sync.WaitGroup

	components often[[]console.Component]
	alerts     often[alertsSeen]
	usage      often[map[string][2]console.Usage]
}

type alertsSeen struct {
	all     []console.Alert
	unknown string
}

func newViewer(ctx context.Context, e *environment.Environment, log *slog.Logger, links bool) *viewer {
	return &viewer{
		environment: e, log: log, ctx: ctx, links: links, opened: map[string]string{},
		components: often[[]console.Component]{every: 6 * time.Second},
		alerts:     often[alertsSeen]{every: 10 * time.Second},
		usage:      often[map[string][2]console.Usage]{every: 12 * time.Second},
	}
}

func (l *viewer) close() {
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client != nil {
		l.client.Close()
	}
}

// often keeps an answer for a while.
type often[T any] struct {
	every time.Duration
	at    time.Time
	value T
}

func (o *often[T]) get(ask func() (T, error)) T {
	if time.Since(o.at) >= o.every {
		if v, err := ask(); err == nil {
			o.value = v
		}
		o.at = time.Now()
	}
	return o.value
}

// kube is a client for the kubeconfig as it is now: an environment that was made again has
// another one.
func (l *viewer) kube(ctx context.Context) (*kube.Client, error) {
	path, err := l.environment.Kubeconfig(ctx)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("the environment has no kubeconfig: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client != nil && info.ModTime().Equal(l.made) {
		return l.client, nil
	}
	c, err := l.environment.Kube(ctx)
	if err != nil {
		return nil, err
	}
	if l.client != nil {
		l.client.Close()
	}
	l.client, l.made = c, info.ModTime()
	return c, nil
}

// RawGet implements observe.API over the kubeconfig as it is now.
func (l *viewer) RawGet(ctx context.Context, path string) ([]byte, error) {
	c, err := l.kube(ctx)
	if err != nil {
		return nil, err
	}
	return c.RawGet(ctx, path)
}

// look sees nodes by the driver, and everything else by the cluster. When that does not
// answer, what the driver saw comes with the error.
func (l *viewer) look(ctx context.Context) (console.Snapshot, error) {
	obs, err := l.environment.Observe(ctx)
	if err != nil {
		return console.Snapshot{Phase: string(driver.PhaseAbsent)}, err
	}
	out := console.Snapshot{Environment: l.environment.Spec.Name, Phase: string(obs.Phase), Note: "durability " + string(l.environment.Spec.Durability)}
	if l.environment.Spec.Durability == spec.DurabilityFast {
		out.Note += ": a host crash may lose acknowledged writes"
	}
	for _, n := range obs.Nodes {
		node := console.Node{Name: n.Name, Role: string(n.Role), Zone: n.Zone, Address: n.Address, Health: console.Starting, State: "not ready"}
		switch {
		case n.Stopped:
			node.Health, node.State = console.Off, "stopped"
		case !n.Running:
			node.Health, node.State = console.Failing, "down"
		}
		out.Nodes = append(out.Nodes, node)
	}
	if obs.Phase != driver.PhaseRunning && obs.Phase != driver.PhasePartial {
		return out, fmt.Errorf("environment %q is %s", l.environment.Spec.Name, obs.Phase)
	}
	c, err := l.kube(ctx)
	if err != nil {
		return out, err
	}
	var nodes, pods []unstructured.Unstructured
	g, bounded := errgroup.WithContext(ctx)
	g.Go(func() (err error) { nodes, err = c.List(bounded, "v1", "Node", "", ""); return err })
	g.Go(func() (err error) { pods, err = c.List(bounded, "v1", "Pod", "", ""); return err })
	if err := g.Wait(); err != nil {
		return out, err
	}
	ready := environment.ReadyNodes(nodes)
	for i, n := range out.Nodes {
		if ready[n.Name] && n.Health == console.Starting {
			out.Nodes[i].Health, out.Nodes[i].State = console.Good, "ready"
		}
	}
	placePods(&out, pods)
	l.slowly(ctx, c, &out, nodes)
	out.Endpoints = l.endpoints(ctx, c, obs.Endpoints)
	return out, nil
}

// slowly adds what is asked less often, side by side.
func (l *viewer) slowly(ctx context.Context, c *kube.Client, out *console.Snapshot, nodes []unstructured.Unstructured) {
	var wg sync.WaitGroup
	wg.Go(func() {
		out.Components = l.components.get(func() ([]console.Component, error) { return l.seeComponents(ctx, c), ctx.Err() })
	})
	wg.Go(func() {
		seen := l.alerts.get(func() (alertsSeen, error) { return seeAlerts(ctx, c), ctx.Err() })
		out.Alerts, out.AlertsUnknown = seen.all, seen.unknown
	})
	var usage map[string][2]console.Usage
	wg.Go(func() {
		usage = l.usage.get(func() (map[string][2]console.Usage, error) { return seeUsage(ctx, c, nodes) })
	})
	wg.Wait()
	for i, n := range out.Nodes {
		if u, ok := usage[n.Name]; ok && n.Health != console.Off {
			out.Nodes[i].CPU, out.Nodes[i].Memory = u[0], u[1]
		}
	}
}

func (l *viewer) seeComponents(ctx context.Context, c *kube.Client) []console.Component {
	var all []console.Component
	for _, s := range l.environment.ComponentStatuses(ctx, c) {
		health := map[environment.ComponentState]console.Health{
			environment.ComponentReady: console.Good, environment.ComponentProgressing: console.Starting,
			environment.ComponentFailed: console.Failing, environment.ComponentSkipped: console.Off,
		}[s.State]
		all = append(all, console.Component{Name: s.Name, Namespace: s.Namespace, Reason: s.Reason, Health: health})
	}
	return all
}

func seeAlerts(ctx context.Context, c *kube.Client) alertsSeen {
	alerts, err := observe.NewPrometheus(c).Alerts(ctx)
	if errors.Is(err, observe.ErrAbsent) {
		return alertsSeen{unknown: "Nobody watches: Prometheus is not there."}
	}
	if err != nil {
		return alertsSeen{unknown: "Prometheus does not say: " + err.Error()}
	}
	var seen alertsSeen
	for _, a := range alerts {
		// One that always fires shows that alerting works.
		if a.Labels["severity"] == "none" || a.Name() == "Watchdog" {
			continue
		}
		labels := maps.Clone(a.Labels)
		delete(labels, "alertname")
		delete(labels, "severity")
		summary := a.Annotations["summary"]
		if summary == "" {
			summary = a.Annotations["description"]
		}
		seen.all = append(seen.all, console.Alert{
			Name: a.Name(), Severity: a.Labels["severity"], State: a.State, Summary: summary,
			Runbook: a.Annotations["runbook_url"], Labels: labels.String(), Since: a.Since,
		})
	}
	slices.SortStableFunc(seen.all, func(a, b console.Alert) int { return -cmpBool(a.State == "firing", b.State == "firing") })
	return seen
}

func cmpBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// endpoints are the ways in: addresses that listen, and commands that make some.
func (l *viewer) endpoints(ctx context.Context, c *kube.Client, have map[string]string) []console.Endpoint {
	var all []console.Endpoint
	for _, name := range slices.Sorted(maps.Keys(have)) {
		all = append(all, console.Endpoint{Name: name, Address: have[name]})
	}
	all = append(all, console.Endpoint{Name: "kubectl", Address: "orrery kubectl" + l.environment.Flag() + " get pods -A", Command: true})
	for _, name := range slices.Sorted(maps.Keys(openables)) {
		what := openables[name]
		l.mu.Lock()
		url := l.opened[name]
		l.mu.Unlock()
		if url == "" {
			if _, err := c.Get(ctx, "v1", "Service", what.namespace, what.service); err != nil {
				continue
			}
			url = l.link(ctx, name, what)
		}
		e := console.Endpoint{Name: name, Address: url, Link: what.scheme == "http"}
		if url == "" {
			e = console.Endpoint{Name: name, Address: "orrery open" + l.environment.Flag() + " " + name, Command: true}
		}
		all = append(all, e)
	}
	return all
}

// link makes a service reachable when links are wanted; "" else.
func (l *viewer) link(ctx context.Context, name string, what openable) string {
	if !l.links {
		return ""
	}
	c, err := l.kube(ctx)
	if err != nil {
		return ""
	}
	listener, err := listenLocal(0)
	if err != nil {
		return ""
	}
	url := what.url(listener.Addr())
	l.mu.Lock()
	l.opened[name] = url
	l.mu.Unlock()
	l.wg.Go(func() { l.carry(c, listener, what) })
	return url
}

func (l *viewer) carry(c *kube.Client, listener net.Listener, what openable) {
	err := c.Tunnel(l.ctx, listener, what.namespace, what.service, what.port, func(err error) { l.log.Debug("link", "service", what.service, "error", err) })
	if err != nil {
		l.log.Debug("link ended", "service", what.service, "error", err)
	}
}
