package smoke

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/flow"
	"github.com/orrery-dev/orrery/internal/spec"
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
	if env.Spec.Driver == "native" && env.Spec.Network.Plugin != spec.PluginCilium {
		return check.Skip("network plugin %s enforces no network policies; cilium does (network.plugin of orrery.yaml)", env.Spec.Network.Plugin)
	}
	return inSandbox(ctx, env, "network-policy", func(s *sandbox) (string, error) {
		g, err := s.guarded(ctx)
		if err != nil {
			return "", err
		}
		blocked, err := g.blocks(ctx)
		if err != nil {
			return "", err
		}
		allowed, err := g.allows(ctx)
		if err != nil {
			return "", err
		}
		denied, err := g.denies(ctx)
		if err != nil {
			return "", err
		}
		return strings.Join([]string{blocked, allowed, denied}, "; "), nil
	})
}

// guarded are a pod, two that want to talk to it, and what they were seen doing.
type guarded struct {
	*sandbox
	target, friend, stranger string
	address                  string            // of target
	nodes                    map[string]string // pod → where it runs
	recorded                 bool              // flows are
}

func (s *sandbox) guarded(ctx context.Context) (*guarded, error) {
	g := &guarded{sandbox: s, nodes: map[string]string{}, recorded: s.env.Flows != nil}
	// First, so that the others find the label that they keep away from.
	serve := []string{"serve", fmt.Sprintf(":%d", openPort), fmt.Sprintf(":%d", shutPort)}
	var err error
	if g.target, err = s.pod(ctx, pod{part: "target", command: serve}); err != nil {
		return nil, err
	}
	client := pod{part: "friend", command: []string{"sleep"}}
	if len(s.env.Spec.Topology()) > 1 {
		client.apart = "target"
	}
	if g.friend, err = s.pod(ctx, client); err != nil {
		return nil, err
	}
	if g.stranger, err = s.pod(ctx, pod{part: "stranger", command: []string{"sleep"}}); err != nil {
		return nil, err
	}
	for _, name := range []string{g.target, g.friend, g.stranger} {
		p, err := s.started(ctx, name)
		if err != nil {
			return nil, err
		}
		g.nodes[name] = text(p, "spec", "nodeName")
		if name == g.target {
			g.address = text(p, "status", "podIP")
		}
	}
	return g, nil
}

// want is what has to come of a client's try.
type want struct {
	from   string
	port   int
	answer bool
}

// expect waits until every client's tries end as wanted. All are made at once.
func (g *guarded) expect(ctx context.Context, rule string, wanted ...want) error {
	asks := map[string][]ask{}
	for _, w := range wanted {
		asks[w.from] = append(asks[w.from], ask{
			url:    fmt.Sprintf("http://%s:%d/", g.address, w.port),
			what:   fmt.Sprintf("port %d of the pod on %s (%s)", w.port, g.nodes[g.target], rule),
			judge:  answeredBy(g.target),
			silent: !w.answer,
		})
	}
	return until(ctx, settle, func() error {
		var group errgroup.Group
		for from, tries := range asks {
			group.Go(func() error {
				if _, err := g.reach(ctx, namespace, from, tries); err != nil {
					return fmt.Errorf("from %s: %w", from, err)
				}
				return nil
			})
		}
		return group.Wait()
	})
}

// prove looks for the flow of a try on the node that saw its end, and says what it shows; ""
// where none are recorded.
func (g *guarded) prove(ctx context.Context, from string, port int, since time.Time, on string, find func(context.Context, Env, passage) (flow.Flow, error)) (string, error) {
	if !g.recorded {
		return "", nil
	}
	f, err := find(ctx, g.env, passage{
		from: namespace + "/" + from, to: namespace + "/" + g.target, port: port, since: since, node: g.nodes[on],
	})
	if errors.Is(err, driver.ErrNoFlows) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf(" (flow on %s: %s", f.Node, strings.ToLower(string(f.Verdict)))
	if f.DropReason != "" {
		text += " " + f.DropReason
	}
	return text + ")", nil
}

// blocks: before there is a policy for it, nobody reaches the shut port of a pod whose open
// one answers.
func (g *guarded) blocks(ctx context.Context) (string, error) {
	since := time.Now()
	err := g.expect(ctx, "the namespace's own policies have to block one and let the other through",
		want{g.friend, openPort, true}, want{g.stranger, openPort, true},
		want{g.friend, shutPort, false}, want{g.stranger, shutPort, false})
	if err != nil {
		return "", err
	}
	proof, err := g.prove(ctx, g.friend, shutPort, since, g.friend, droppedFlow) // it is not even let out
	return fmt.Sprintf("what no policy allows in %s is blocked%s", namespace, proof), err
}

// allows: a policy lets one pod out and in, and another only out.
func (g *guarded) allows(ctx context.Context) (string, error) {
	ports := []any{map[string]any{"port": int64(shutPort), "protocol": "TCP"}}
	both := map[string]any{
		"matchLabels":      map[string]any{runLabel: g.id},
		"matchExpressions": []any{map[string]any{"key": partLabel, "operator": "In", "values": []any{"friend", "stranger"}}},
	}
	target := map[string]any{"matchLabels": g.selector("target")}
	for part, content := range map[string]map[string]any{
		"in": {"podSelector": target, "policyTypes": []any{"Ingress"}, "ingress": []any{map[string]any{
			"from": []any{map[string]any{"podSelector": map[string]any{"matchLabels": g.selector("friend")}}}, "ports": ports,
		}}},
		"out": {"podSelector": both, "policyTypes": []any{"Egress"}, "egress": []any{map[string]any{
			"to": []any{map[string]any{"podSelector": target}}, "ports": ports,
		}}},
	} {
		err := g.create(ctx, map[string]any{
			"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
			"metadata": map[string]any{"name": g.name(part)}, "spec": content,
		})
		if err != nil {
			return "", err
		}
	}
	since := time.Now()
	err := g.expect(ctx, "a policy allows one pod and no other", want{g.friend, shutPort, true}, want{g.stranger, shutPort, false})
	if err != nil {
		return "", err
	}
	var group errgroup.Group
	var proof, other string
	group.Go(func() (err error) {
		proof, err = g.prove(ctx, g.friend, shutPort, since, g.target, forwardedFlow)
		return err
	})
	group.Go(func() (err error) {
		other, err = g.prove(ctx, g.stranger, shutPort, since, g.target, droppedFlow)
		return err
	})
	err = group.Wait()
	return fmt.Sprintf("a policy lets in whom it names%s and nobody else%s", proof, other), err
}

// denies: where Cilium is, a rule that denies wins over one that allows, and rules of layer 7
// are refused, which would let everything through.
func (g *guarded) denies(ctx context.Context) (string, error) {
	if !g.served(ctx) {
		return "rules that deny are not known here", nil
	}
	since := time.Now()
	err := g.create(ctx, g.ciliumPolicy("deny", map[string]any{
		"ingressDeny": []any{map[string]any{
			"fromEndpoints": []any{map[string]any{"matchLabels": g.selector("friend")}},
			"toPorts":       []any{map[string]any{"ports": []any{map[string]any{"port": fmt.Sprint(shutPort), "protocol": "TCP"}}}},
		}},
		// It only takes away from what others allow.
		"enableDefaultDeny": map[string]any{"ingress": false, "egress": false},
	}))
	if err != nil {
		return "", err
	}
	err = g.expect(ctx, "a rule denies it", want{g.friend, shutPort, false}, want{g.friend, openPort, true})
	if err != nil {
		return "", err
	}
	proof, err := g.prove(ctx, g.friend, shutPort, since, g.target, droppedFlow)
	if err != nil {
		return "", err
	}
	l7, err := g.refusesL7(ctx)
	return fmt.Sprintf("one that denies wins%s; %s", proof, l7), err
}

// served says whether the API has Cilium's policies. They are part of that network.
func (g *guarded) served(ctx context.Context) bool {
	if g.env.Spec.Network.Plugin == spec.PluginCilium {
		return true
	}
	_, err := g.env.Client.List(ctx, ciliumAPI, "CiliumNetworkPolicy", namespace, "")
	return err == nil
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
