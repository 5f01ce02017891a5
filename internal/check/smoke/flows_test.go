package smoke

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/flow"
)

func TestAwaitFlow(t *testing.T) {
	denied := flow.Flow{Verdict: flow.Dropped, DropReason: "POLICY_DENIED", Direction: flow.Ingress, Destination: flow.Endpoint{Port: 8080}}
	stale, answer, other := denied, denied, denied
	stale.DropReason, answer.Reply, other.Destination.Port = "STALE_OR_UNROUTABLE_IP", true, 81
	way := passage{from: "apps/a", to: "apps/b", port: 8080}
	for name, c := range map[string]struct {
		answers [][]flow.Flow
		fails   []error
		says    string
	}{
		"at once":                 {answers: [][]flow.Flow{{denied}}},
		"after a while":           {answers: [][]flow.Flow{nil, {stale}, {stale, denied}}, fails: []error{errTest}},
		"dropped for less":        {answers: [][]flow.Flow{{stale}}, says: "from apps/a to apps/b, port 8080 that a policy dropped (1 others"},
		"an answer, another port": {answers: [][]flow.Flow{{answer, other}}, says: "(2 others were seen)"},
		"no record is kept":       {fails: []error{driver.ErrNoFlows}, says: "no flows are recorded"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				asked := 0
				env := Env{Flows: func(_ context.Context, q flow.Query) ([]flow.Flow, error) {
					asked++
					if q.From != "apps/a" || q.To != "apps/b" || q.Port != 8080 || len(q.Verdicts) != 1 || q.Verdicts[0] != flow.Dropped || q.Check() != nil {
						t.Errorf("asked %+v", q)
					}
					if asked <= len(c.fails) {
						return nil, c.fails[asked-1]
					}
					return c.answers[min(asked-len(c.fails), len(c.answers))-1], nil
				}}
				began := time.Now()
				f, err := droppedFlow(t.Context(), env, way)
				switch {
				case c.says == "" && (err != nil || f.DropReason != "POLICY_DENIED"):
					t.Errorf("%+v, %v", f, err)
				case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
					t.Errorf("%v does not say %q", err, c.says)
				}
				if errors.Is(err, driver.ErrNoFlows) && time.Since(began) > time.Second {
					t.Error("waits for what does not come")
				}
			})
		})
	}
	if _, err := forwardedFlow(t.Context(), Env{}, way); !errors.Is(err, driver.ErrNoFlows) {
		t.Errorf("nobody to ask: %v", err)
	}
}
