package smoke

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/flow"
)

// enforcing is a cluster whose network enforces the check's policies: the open port answers
// all, the shut one the friend.
func enforcing(f *fakeAPI) *fakeNetwork {
	n := &fakeNetwork{f: f}
	n.ports = func(from, port string) bool {
		return port == "8080" || strings.HasSuffix(from, "-friend")
	}
	return n
}

// recorded are the flows of such a cluster.
func recorded(_ context.Context, q flow.Query) ([]flow.Flow, error) {
	all := []flow.Flow{
		{Node: "agent1", Verdict: flow.Forwarded, Source: flow.Endpoint{Pod: "friend"}, Destination: flow.Endpoint{Port: shutPort}},
		{Node: "agent1", Verdict: flow.Dropped, DropReason: "POLICY_DENIED", Source: flow.Endpoint{Pod: "stranger"}, Destination: flow.Endpoint{Port: shutPort}},
		{Node: "agent1", Verdict: flow.Dropped, DropReason: "POLICY_DENY", Source: flow.Endpoint{Pod: "outcast"}, Destination: flow.Endpoint{Port: shutPort}},
	}
	return slices.DeleteFunc(all, func(f flow.Flow) bool {
		return !strings.HasSuffix(q.From, f.Source.Pod) || !slices.Contains(q.Verdicts, f.Verdict)
	}), nil
}

func refuseHTTP(o *unstructured.Unstructured) error {
	if o.GetKind() != "CiliumNetworkPolicy" || !strings.HasSuffix(o.GetName(), "-http") {
		return nil
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: "cilium.io", Resource: "ciliumnetworkpolicies"}, o.GetName(),
		errors.New("ValidatingAdmissionPolicy 'orrery-l7-rules' with binding 'orrery-l7-rules' denied request"))
}

func TestNetworkPolicy(t *testing.T) {
	for _, test := range []struct {
		name   string
		broken func(*fakeAPI, *fakeNetwork, *Env)
		state  check.State
		says   []string
	}{
		{"well", nil, check.Succeeded, []string{
			"what no policy allows in apps is blocked (flow on agent1: dropped POLICY_DENIED)",
			"lets in whom it names (flow on agent1: forwarded)", "one that denies wins (flow on agent1: dropped POLICY_DENY)", "rules of HTTP are refused",
		}},
		{"ptp", func(_ *fakeAPI, _ *fakeNetwork, env *Env) { env.EnforcesPolicies = false }, check.Skipped, []string{"enforces no network policies"}},
		{"no flows", func(_ *fakeAPI, _ *fakeNetwork, env *Env) { env.Flows = nil }, check.Succeeded, []string{"is blocked, a policy"}},
		{"flows are not recorded", func(_ *fakeAPI, _ *fakeNetwork, env *Env) {
			env.Flows = func(context.Context, flow.Query) ([]flow.Flow, error) { return nil, driver.ErrNoFlows }
		}, check.Succeeded, []string{"is blocked, a policy"}},
		{"another network that enforces", func(f *fakeAPI, _ *fakeNetwork, env *Env) { env.Flows = nil }, check.Succeeded, []string{"one that denies wins;"}},
		{"which knows no denials", func(f *fakeAPI, _ *fakeNetwork, env *Env) {
			env.Flows, f.unknown = nil, "CiliumNetworkPolicy"
		}, check.Succeeded, []string{"rules that deny are not known"}},
		{"component cilium is not there", func(_ *fakeAPI, _ *fakeNetwork, env *Env) { env.Components = nil }, check.Succeeded, []string{"rules of HTTP were not tried"}},
		{"nothing is enforced", func(_ *fakeAPI, n *fakeNetwork, _ *Env) { n.ports = func(string, string) bool { return true } },
			check.Failed, []string{"-target", "want no answer"}},
		{"the allowed is blocked", func(_ *fakeAPI, n *fakeNetwork, _ *Env) {
			n.ports = func(_, port string) bool { return port == "8080" }
		},
			check.Failed, []string{"-friend: port 8081", "(a policy allows it)"}},
		{"the denied comes through", func(_ *fakeAPI, n *fakeNetwork, _ *Env) {
			n.ports = func(from, port string) bool { return port == "8080" || !strings.HasSuffix(from, "-stranger") }
		}, check.Failed, []string{"-outcast: port 8081", "(a policy denies it)"}},
		{"nobody listens", func(_ *fakeAPI, n *fakeNetwork, _ *Env) { n.ports = func(string, string) bool { return false } },
			check.Failed, []string{"(open to all)"}},
		{"blocked by something else", func(_ *fakeAPI, _ *fakeNetwork, env *Env) {
			env.Flows = func(ctx context.Context, q flow.Query) ([]flow.Flow, error) {
				flows, err := recorded(ctx, q)
				for i := range flows {
					flows[i].DropReason = "STALE_OR_UNROUTABLE_IP"
				}
				return flows, err
			}
		}, check.Failed, []string{"no node has the record of a packet"}},
		{"rules of HTTP are let in", func(f *fakeAPI, _ *fakeNetwork, _ *Env) { f.admit = nil }, check.Failed, []string{"a rule of HTTP was let in"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f, env := newFake(t)
				n := enforcing(f)
				f.exec, f.admit = n.exec, refuseHTTP
				env.EnforcesPolicies, env.Flows, env.Components = true, recorded, []string{"cilium"}
				if test.broken != nil {
					test.broken(f, n, &env)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				f.judge(t, networkPolicy(ctx, env), test.state, test.says...)
			})
		})
	}
}
