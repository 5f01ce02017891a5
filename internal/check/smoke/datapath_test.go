package smoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/orrery-dev/orrery/internal/check"
)

// fakeNetwork answers what probe reach asks, as the datapath of a cluster would.
type fakeNetwork struct {
	f     *fakeAPI
	asked int
	// broken changes the answers to one URL asked from a pod, by what it names: "pod",
	// "plain", "sticky", "local", "lonely", "nodeport" or "name". Nil is a network that works.
	broken func(from, what string, answers []string) []string
	// ports says which port of a pod answers whom. Nil is all.
	ports func(from, port string) bool
}

func (n *fakeNetwork) exec(pod, command string) (string, error) {
	args := strings.Fields(command)
	if args[0] != "reach" {
		return "", errors.New("unexpected " + command)
	}
	n.f.mu.Lock()
	defer n.f.mu.Unlock()
	var out strings.Builder
	for _, arg := range args[1:] {
		count, raw, _ := strings.Cut(arg, "*")
		times, err := strconv.Atoi(count)
		if err != nil {
			return "", err
		}
		u, err := url.Parse(raw)
		if err != nil {
			return "", err
		}
		what, answers := n.answer(pod, u, times)
		if n.broken != nil {
			answers = n.broken(pod, what, answers)
		}
		line, err := json.Marshal(map[string]any{"url": raw, "answers": answers, "failed": times - len(answers), "error": "i/o timeout"})
		if err != nil {
			return "", err
		}
		fmt.Fprintln(&out, string(line))
	}
	return out.String(), nil
}

func (n *fakeNetwork) answer(from string, u *url.URL, times int) (what string, answers []string) {
	client := n.f.objects[key("Pod", namespace, from)]
	for _, o := range n.f.objects {
		switch {
		case o.GetKind() == "Pod" && text(o, "status", "podIP") == u.Hostname():
			if n.ports != nil && !n.ports(from, u.Port()) {
				return "pod", nil
			}
			return "pod", slices.Repeat([]string{o.GetName()}, times)
		case o.GetKind() == "Node" && internalIP(o) == u.Hostname() && u.Port() == "30080":
			return "nodeport", slices.Repeat(n.behind(n.service("-plain"))[:1], times)
		}
	}
	for _, what := range []string{"plain", "sticky", "local", "lonely"} {
		s := n.service("-" + what)
		if text(s, "spec", "clusterIP") != u.Hostname() && !strings.HasPrefix(u.Hostname(), s.GetName()+".") {
			continue
		}
		if strings.HasPrefix(u.Hostname(), s.GetName()) {
			what = "name"
		}
		behind := n.behind(s)
		if text(s, "spec", "internalTrafficPolicy") == "Local" {
			behind = slices.DeleteFunc(behind, func(name string) bool {
				return text(n.f.objects[key("Pod", namespace, name)], "spec", "nodeName") != text(client, "spec", "nodeName")
			})
		}
		for range times {
			if len(behind) == 0 {
				return what, nil
			}
			pick := 0
			if text(s, "spec", "sessionAffinity") == "" {
				n.asked++
				pick = n.asked % len(behind)
			}
			answers = append(answers, behind[pick])
		}
		return what, answers
	}
	return "", nil
}

func (n *fakeNetwork) service(suffix string) *unstructured.Unstructured {
	for _, o := range n.f.objects {
		if o.GetKind() == "Service" && strings.HasSuffix(o.GetName(), suffix) {
			return o
		}
	}
	return &unstructured.Unstructured{Object: map[string]any{}}
}

// behind are the pods that a Service selects.
func (n *fakeNetwork) behind(s *unstructured.Unstructured) (names []string) {
	selector, _, _ := unstructured.NestedStringMap(s.Object, "spec", "selector")
	for _, o := range n.f.objects {
		if o.GetKind() == "Pod" && labels.SelectorFromSet(selector).Matches(labels.Set(o.GetLabels())) {
			names = append(names, o.GetName())
		}
	}
	slices.Sort(names)
	return names
}

// Where nothing answers for names, nobody is asked for one.
func TestDatapathWithoutNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, env := newFake(t)
		f.exec = (&fakeNetwork{f: f, broken: func(_, what string, answers []string) []string {
			if what == "name" {
				return nil
			}
			return answers
		}}).exec
		f.judge(t, datapath(t.Context(), env), check.Succeeded, "without component coredns it has no name")
	})
}

func TestDatapath(t *testing.T) {
	// only breaks what one kind of URL answers to pods whose name ends in from.
	only := func(what, from string, f func([]string) []string) func(string, string, []string) []string {
		return func(pod, of string, answers []string) []string {
			if of == what && strings.HasSuffix(pod, from) {
				return f(answers)
			}
			return answers
		}
	}
	nobody := func([]string) []string { return nil }
	other := func(answers []string) []string { return append(slices.Clone(answers[1:]), "intruder") }
	for _, test := range []struct {
		name   string
		broken func(from, what string, answers []string) []string
		api    func(*fakeAPI)
		state  check.State
		says   []string
	}{
		{"well", nil, nil, check.Succeeded, []string{"pods on 5 nodes in 3 zones", "from a process of agent1 too"}},
		{"one node", nil, func(f *fakeAPI) {
			for _, name := range f.nodes[1:] {
				delete(f.objects, key("Node", "", name))
			}
		}, check.Succeeded, []string{"pods on 1 nodes in 1 zones"}},
		{"closed nodes are left alone", nil, func(f *fakeAPI) {
			unstructured.SetNestedField(f.objects[key("Node", "", "agent1")].Object, true, "spec", "unschedulable")
			notReady(f, nil)
		}, check.Succeeded, []string{"pods on 4 nodes"}},
		{"no node", nil, func(f *fakeAPI) {
			for _, name := range f.nodes {
				delete(f.objects, key("Node", "", name))
			}
		}, check.Failed, []string{"no node is Ready"}},
		{"no host network", nil, func(f *fakeAPI) {
			f.admit = func(o *unstructured.Unstructured) error {
				if o.GetNamespace() == hostNamespace {
					return apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, o.GetName(), errors.New("violates PodSecurity"))
				}
				return nil
			}
		}, check.Succeeded, []string{"not tried from a node: a pod in the network of its node is refused"}},
		{"no port on nodes", nil, func(f *fakeAPI) { f.portless = true }, check.Failed, []string{"has no port on the nodes"}},
		{"a pod is not reached", only("pod", "mesh1", nobody), nil, check.Failed, []string{"from agent2: ", "and 2 more", "the pod on agent1: 1 of 1 requests to http://10.244.0.", "i/o timeout"}},
		{"another pod answers", only("pod", "mesh0", other), nil, check.Failed, []string{`answered by "intruder", want smoke-datapath-`}},
		{"ClusterIP", only("plain", "mesh2", nobody), nil, check.Failed, []string{"the ClusterIP of smoke-datapath-"}},
		{"always the same pod", only("plain", "", func(a []string) []string {
			return slices.Repeat([]string{strings.Split(a[0], "mesh")[0] + "mesh0"}, len(a))
		}), nil, check.Failed, []string{"5 pods are behind the Service", "answered every time"}},
		{"no affinity", only("sticky", "mesh1", func(a []string) []string {
			return append(a[1:], strings.Split(a[0], "mesh")[0]+"mesh3")
		}), nil, check.Failed, []string{"want always the same pod"}},
		{"no hairpin", only("local", "mesh3", nobody), nil, check.Failed, []string{"itself through internalTrafficPolicy Local"}},
		{"not local", only("lonely", "mesh4", func([]string) []string { return []string{"x"} }), nil, check.Failed, []string{"whose only pod is on", `answered "x", want no answer`}},
		{"NodePort of one node", only("nodeport", "mesh0", nobody), nil, check.Failed, []string{"the NodePort of agent1", "the NodePort of server1"}},
		{"no name", only("name", "mesh0", nobody), nil, check.Failed, []string{"the name of smoke-datapath-", ".apps.svc.cluster.local/"}},
		{"ClusterIP from a node", only("plain", "host", nobody), nil, check.Failed, []string{"from a process of agent1: the ClusterIP of"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f, env := newFake(t)
				env.Components = []string{"coredns"}
				f.exec = (&fakeNetwork{f: f, broken: test.broken}).exec
				if test.api != nil {
					test.api(f)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				f.judge(t, datapath(ctx, env), test.state, test.says...)
			})
		})
	}
}

// TestMeshTakesZonesInTurn: with more nodes than are looked at, no zone is left out.
func TestMeshTakesZonesInTurn(t *testing.T) {
	f, env := newFake(t)
	for i := range 2 * meshSize {
		f.put(map[string]any{
			"apiVersion": "v1", "kind": "Node",
			"metadata": map[string]any{"name": fmt.Sprintf("a%02d", i), "labels": map[string]any{zoneLabel: "a"}},
			"status":   map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "True"}}},
		})
	}
	peers, _, err := meshNodes(t.Context(), env)
	if err != nil {
		t.Fatal(err)
	}
	zones := map[string]int{}
	for _, p := range peers {
		zones[p.zone]++
	}
	if len(peers) != meshSize || zones["b"] == 0 || zones["c"] == 0 {
		t.Errorf("%d nodes of zones %v", len(peers), zones)
	}
}
