package smoke

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/flow"
)

// openPort of a check's pod is open to all, shutPort to nobody: so say the policies of the
// checks' namespace (infra/k8s/base/namespaces).
const (
	openPort = 8080
	shutPort = 8081
)

const ciliumAPI = "cilium.io/v2"

// l7PolicyName is the admission policy of the component cilium.
const l7PolicyName = "orrery-l7-rules"

// networkPolicy: what no policy allows is blocked, what one allows comes through for whom it
// names and for nobody else, and one that denies wins. Where flows are recorded, those of
// the packets are the proof: a connection also fails when nobody listens.
func networkPolicy(ctx context.Context, env Env) check.Result {
	if !env.EnforcesPolicies {
		return check.Skip("this network (%s) enforces no network policies; cilium does (network.plugin of orrery.yaml)", env.Spec.Network.Plugin)
	}
	return inSandbox(ctx, env, "network-policy", func(s *sandbox) (string, error) {
		cilium, err := s.hasCilium(ctx)
		if err != nil {
			return "", err
		}
		g := &guarded{sandbox: s, pods: map[string]*unstructured.Unstructured{}, cilium: cilium}
		// Policies first: pods come into a network that knows them.
		if err := g.makePolicies(ctx); err != nil {
			return "", err
		}
		if err := g.startPods(ctx); err != nil {
			return "", err
		}
		since := time.Now()
		if err := g.expectAnswers(ctx); err != nil {
			return "", err
		}
		proofs, err := g.prove(ctx, since)
		if err != nil {
			return "", err
		}
		message := fmt.Sprintf("what no policy allows in %s is blocked%s, a policy lets in whom it names%s", namespace, proofs["stranger"], proofs["friend"])
		if !g.cilium {
			return message + "; rules that deny are not known here", nil
		}
		l7, err := g.refusesL7(ctx)
		return fmt.Sprintf("%s, one that denies wins%s; %s", message, proofs["outcast"], l7), err
	})
}

// guarded is a pod, the target, and three that want to talk to it: a friend whom a policy
// lets in, an outcast whom it lets in too and another one denies, and a stranger.
type guarded struct {
	*sandbox
	pods   map[string]*unstructured.Unstructured // by part
	cilium bool                                  // rules that deny are known
}

func (g *guarded) makePolicies(ctx context.Context) error {
	ports := []any{map[string]any{"port": int64(shutPort), "protocol": "TCP"}}
	parts := func(names ...any) map[string]any {
		return map[string]any{
			"matchLabels":      map[string]any{runLabel: g.id},
			"matchExpressions": []any{map[string]any{"key": partLabel, "operator": "In", "values": names}},
		}
	}
	policies := []map[string]any{
		{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": map[string]any{"name": g.name("in")}, "spec": map[string]any{
			"podSelector": parts("target"), "policyTypes": []any{"Ingress"},
			"ingress": []any{map[string]any{"from": []any{map[string]any{"podSelector": parts("friend", "outcast")}}, "ports": ports}},
		}},
		// All are let out, so that it is the target that shuts the stranger out.
		{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": map[string]any{"name": g.name("out")}, "spec": map[string]any{
			"podSelector": parts("friend", "outcast", "stranger"), "policyTypes": []any{"Egress"},
			"egress": []any{map[string]any{"to": []any{map[string]any{"podSelector": parts("target")}}, "ports": ports}},
		}},
	}
	if g.cilium {
		policies = append(policies, g.ciliumPolicy("deny", map[string]any{
			"ingressDeny": []any{map[string]any{
				"fromEndpoints": []any{map[string]any{"matchLabels": g.selector("outcast")}},
				"toPorts":       []any{map[string]any{"ports": []any{map[string]any{"port": fmt.Sprint(shutPort), "protocol": "TCP"}}}},
			}},
			// It only takes away from what others allow.
			"enableDefaultDeny": map[string]any{"ingress": false, "egress": false},
		}))
	}
	var group errgroup.Group
	for _, p := range policies {
		group.Go(func() error { return g.create(ctx, p) })
	}
	return group.Wait()
}

func (g *guarded) clients() []string {
	if g.cilium {
		return []string{"friend", "stranger", "outcast"}
	}
	return []string{"friend", "stranger"}
}

func (g *guarded) startPods(ctx context.Context) error {
	target := pod{part: "target", command: []string{"serve", fmt.Sprintf(":%d", openPort), fmt.Sprintf(":%d", shutPort)}}
	names := map[string]string{}
	var err error
	if names["target"], err = g.pod(ctx, target); err != nil { // first: the friend keeps away from it
		return err
	}
	for _, part := range g.clients() {
		client := pod{part: part, command: []string{"sleep"}}
		if part == "friend" && len(g.env.topology()) > 1 {
			client.apart = "target"
		}
		if names[part], err = g.pod(ctx, client); err != nil {
			return err
		}
	}
	for part, name := range names {
		if g.pods[part], err = g.started(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// expectAnswers waits until every client's tries end as the policies want. All are made at
// once; the open port tells a pod that is shut out from one that is not there.
func (g *guarded) expectAnswers(ctx context.Context) error {
	target := g.pods["target"]
	rules := map[string]string{
		"friend":   "a policy allows it",
		"stranger": "no policy allows it",
		"outcast":  "a policy denies it",
	}
	return until(ctx, settle, func() error {
		var group errgroup.Group
		for _, part := range g.clients() {
			asks := []ask{}
			for _, port := range []int{openPort, shutPort} {
				rule := "open to all"
				if port == shutPort {
					rule = rules[part]
				}
				asks = append(asks, ask{
					url:    fmt.Sprintf("http://%s:%d/", text(target, "status", "podIP"), port),
					what:   fmt.Sprintf("port %d of the pod on %s (%s)", port, text(target, "spec", "nodeName"), rule),
					judge:  answeredBy(target.GetName()),
					silent: port == shutPort && part != "friend",
				})
			}
			group.Go(func() error {
				if _, err := g.reach(ctx, namespace, g.pods[part].GetName(), asks); err != nil {
					return fmt.Errorf("from %s: %w", g.pods[part].GetName(), err)
				}
				return nil
			})
		}
		return group.Wait()
	})
}

// prove looks for the flows of the tries, on the node of the target, which saw their end, and
// says what they show, by client; nothing where none are recorded.
func (g *guarded) prove(ctx context.Context, since time.Time) (map[string]string, error) {
	if g.env.Flows == nil {
		return nil, nil
	}
	finds := map[string]func(context.Context, Env, passage) (flow.Flow, error){"friend": forwardedFlow, "stranger": droppedFlow, "outcast": deniedFlow}
	proofs, mu := map[string]string{}, sync.Mutex{}
	var group errgroup.Group
	for _, part := range g.clients() {
		group.Go(func() error {
			f, err := finds[part](ctx, g.env, passage{
				from: namespace + "/" + g.pods[part].GetName(), to: namespace + "/" + g.pods["target"].GetName(),
				port: shutPort, since: since, node: text(g.pods["target"], "spec", "nodeName"),
			})
			if errors.Is(err, driver.ErrNoFlows) {
				return nil
			}
			if err != nil {
				return err
			}
			proof := fmt.Sprintf(" (flow on %s: %s", f.Node, strings.ToLower(string(f.Verdict)))
			if f.DropReason != "" {
				proof += " " + f.DropReason
			}
			mu.Lock()
			defer mu.Unlock()
			proofs[part] = proof + ")"
			return nil
		})
	}
	return proofs, group.Wait()
}

// hasCilium says whether the API has Cilium's policies.
func (s *sandbox) hasCilium(ctx context.Context) (bool, error) {
	_, err := s.env.Client.List(ctx, ciliumAPI, "CiliumNetworkPolicy", namespace, "")
	if meta.IsNoMatchError(err) {
		return false, nil
	}
	return err == nil, err
}

func (g *guarded) ciliumPolicy(part string, rules map[string]any) map[string]any {
	content := map[string]any{"endpointSelector": map[string]any{"matchLabels": g.selector("target")}}
	maps.Copy(content, rules)
	return map[string]any{
		"apiVersion": ciliumAPI, "kind": "CiliumNetworkPolicy",
		"metadata": map[string]any{"name": g.name(part), "namespace": namespace}, "spec": content,
	}
}

// refusesL7 tries a rule that only Envoy could enforce. None is made.
func (g *guarded) refusesL7(ctx context.Context) (string, error) {
	if !slices.Contains(g.env.Components, "cilium") {
		return "rules of HTTP were not tried: component cilium is not deployed", nil
	}
	err := until(ctx, settle, func() error {
		err := g.env.Client.DryRun(ctx, &unstructured.Unstructured{Object: g.ciliumPolicy("http", map[string]any{
			"ingress": []any{map[string]any{"toPorts": []any{map[string]any{
				"ports": []any{map[string]any{"port": fmt.Sprint(shutPort), "protocol": "TCP"}},
				"rules": map[string]any{"http": []any{map[string]any{"method": "GET"}}},
			}}}},
		})})
		switch {
		case err == nil:
			return errors.New("a rule of HTTP was let in, which lets everything through")
		case !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), l7PolicyName):
			return fmt.Errorf("try a rule of HTTP: %w", err)
		}
		return nil
	})
	return "rules of HTTP are refused", err
}
