package smoke

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/orrery-dev/orrery/internal/observe"
	"github.com/orrery-dev/orrery/internal/spec"
)

// targetsAnnotation of a ScrapeConfig says of which nodes it has a target each: "nodes" or
// "servers". Prometheus's own way of finding them cannot be followed from outside.
const targetsAnnotation = "orrery.dev/targets"

// pool is what one scrape job of Prometheus should have.
type pool struct {
	targets map[string]bool // by address, or by the name of the node
	byNode  bool
	some    bool // at least one, whatever it is
}

func (p pool) nameOf(t observe.Target) string {
	if p.byNode {
		return t.Labels["node"]
	}
	if u, err := url.Parse(t.URL); err == nil && u.Host != "" {
		return u.Host
	}
	return t.URL
}

// expectedTargets follows every monitor in the cluster to what it selects. Keys are the
// names that the operator gives to scrape jobs.
func expectedTargets(ctx context.Context, env Env) (map[string]pool, error) {
	w := world{expected: map[string]pool{}, nodes: env.topology()}
	for kind, into := range map[string]*[]unstructured.Unstructured{"Service": &w.services, "Pod": &w.pods} {
		var err error
		if *into, err = env.Client.List(ctx, "v1", kind, "", ""); err != nil {
			return nil, err
		}
	}
	var err error
	if w.slices, err = env.Client.List(ctx, "discovery.k8s.io/v1", "EndpointSlice", "", ""); err != nil {
		return nil, err
	}
	for _, kind := range []struct {
		apiVersion, kind string
		add              func(*world, unstructured.Unstructured) error
	}{
		{monitoring, "ServiceMonitor", (*world).serviceMonitor},
		{monitoring, "PodMonitor", (*world).podMonitor},
		{monitoringAlpha, "ScrapeConfig", (*world).scrapeConfig},
		{monitoring, "Probe", (*world).probe},
	} {
		monitors, err := env.Client.List(ctx, kind.apiVersion, kind.kind, "", "")
		if err != nil {
			return nil, fmt.Errorf("list %ss: %w", kind.kind, err)
		}
		for _, m := range monitors {
			if err := kind.add(&w, m); err != nil {
				return nil, fmt.Errorf("%s %s/%s: %w", kind.kind, m.GetNamespace(), m.GetName(), err)
			}
		}
	}
	return w.expected, nil
}

// world is what monitors select from, and what is expected of those that were seen.
type world struct {
	nodes                  []spec.Node
	services, slices, pods []unstructured.Unstructured
	expected               map[string]pool
}

// monitor is what ServiceMonitors and PodMonitors have in common.
type monitor struct {
	Selector          metav1.LabelSelector
	NamespaceSelector struct {
		Any        bool
		MatchNames []string
	}
	Endpoints           []monitorPort
	PodMetricsEndpoints []monitorPort
}

type monitorPort struct {
	Port       string
	PortNumber int64
	TargetPort any
}

func readMonitor(o unstructured.Unstructured) (m monitor, sel labels.Selector, err error) {
	raw, err := json.Marshal(o.Object["spec"])
	if err == nil {
		err = json.Unmarshal(raw, &m)
	}
	if err != nil {
		return m, nil, err
	}
	sel, err = metav1.LabelSelectorAsSelector(&m.Selector)
	return m, sel, err
}

// selected are those of objects that a monitor in the namespace own selects.
func (m monitor) selected(objects []unstructured.Unstructured, own string, sel labels.Selector) (found []unstructured.Unstructured) {
	for _, o := range objects {
		inScope := m.NamespaceSelector.Any || slices.Contains(m.NamespaceSelector.MatchNames, o.GetNamespace()) ||
			len(m.NamespaceSelector.MatchNames) == 0 && o.GetNamespace() == own
		if inScope && sel.Matches(labels.Set(o.GetLabels())) {
			found = append(found, o)
		}
	}
	return found
}

// serviceMonitor: the endpoints behind the Services that it selects, Ready or not.
func (w *world) serviceMonitor(o unstructured.Unstructured) error {
	m, sel, err := readMonitor(o)
	if err != nil {
		return err
	}
	var behind []unstructured.Unstructured
	for _, service := range m.selected(w.services, o.GetNamespace(), sel) {
		for _, slice := range w.slices {
			if slice.GetNamespace() == service.GetNamespace() && slice.GetLabels()["kubernetes.io/service-name"] == service.GetName() {
				behind = append(behind, slice)
			}
		}
	}
	for i, e := range m.Endpoints {
		p := pool{targets: map[string]bool{}, some: true}
		for _, s := range behind {
			ports, _, _ := unstructured.NestedSlice(s.Object, "ports")
			endpoints, _, _ := unstructured.NestedSlice(s.Object, "endpoints")
			for _, port := range ports {
				port, _ := port.(map[string]any)
				number, _ := port["port"].(int64)
				if e.Port != "" && port["name"] != e.Port || e.Port == "" && e.TargetPort != nil && fmt.Sprint(e.TargetPort) != fmt.Sprint(number) {
					continue
				}
				for _, endpoint := range endpoints {
					endpoint, _ := endpoint.(map[string]any)
					addresses, _, _ := unstructured.NestedStringSlice(endpoint, "addresses")
					if len(addresses) > 0 {
						p.targets[addresses[0]+":"+strconv.FormatInt(number, 10)] = true
					}
				}
			}
		}
		w.expected[fmt.Sprintf("serviceMonitor/%s/%s/%d", o.GetNamespace(), o.GetName(), i)] = p
	}
	return nil
}

// podMonitor: the pods that it selects and that have an address.
func (w *world) podMonitor(o unstructured.Unstructured) error {
	m, sel, err := readMonitor(o)
	if err != nil {
		return err
	}
	pods := m.selected(w.pods, o.GetNamespace(), sel)
	for i, e := range m.PodMetricsEndpoints {
		p := pool{targets: map[string]bool{}, some: true}
		for _, pod := range pods {
			phase, address := text(&pod, "status", "phase"), text(&pod, "status", "podIP")
			if address == "" || phase == "Succeeded" || phase == "Failed" {
				continue
			}
			containers, _, _ := unstructured.NestedSlice(pod.Object, "spec", "containers")
			for _, c := range containers {
				c, _ := c.(map[string]any)
				ports, _ := c["ports"].([]any)
				for _, port := range ports {
					port, _ := port.(map[string]any)
					number, _ := port["containerPort"].(int64)
					if e.Port != "" && port["name"] == e.Port || e.Port == "" && number == e.PortNumber {
						p.targets[address+":"+strconv.FormatInt(number, 10)] = true
					}
				}
			}
		}
		w.expected[fmt.Sprintf("podMonitor/%s/%s/%d", o.GetNamespace(), o.GetName(), i)] = p
	}
	return nil
}

// scrapeConfig: nodes of the spec, when its annotation says so.
func (w *world) scrapeConfig(o unstructured.Unstructured) error {
	p := pool{targets: map[string]bool{}, byNode: true}
	switch which := o.GetAnnotations()[targetsAnnotation]; which {
	case "nodes", "servers":
		for _, n := range w.nodes {
			if which == "nodes" || n.Role == spec.RoleServer {
				p.targets[n.Name] = true
			}
		}
	case "":
		p = pool{some: true}
	default:
		return fmt.Errorf("annotation %s is %q; must be nodes or servers", targetsAnnotation, which)
	}
	w.expected[fmt.Sprintf("scrapeConfig/%s/%s", o.GetNamespace(), o.GetName())] = p
	return nil
}

func (w *world) probe(o unstructured.Unstructured) error {
	w.expected[fmt.Sprintf("probe/%s/%s", o.GetNamespace(), o.GetName())] = pool{some: true}
	return nil
}
