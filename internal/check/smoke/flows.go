package smoke

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/flow"
)

// passage is a way through the network that a check took: what it looks for among the flows.
type passage struct {
	from, to string // NAMESPACE/NAME of pods, or the beginning of it; "" is anything
	port     int    // at the destination
	since    time.Time
	node     string // that saw it; "" asks all
}

func (p passage) String() string {
	anything := func(pod string) string {
		if pod == "" {
			return "anything"
		}
		return pod
	}
	return fmt.Sprintf("from %s to %s, port %d", anything(p.from), anything(p.to), p.port)
}

// droppedFlow waits for the record of a packet that was dropped on its way because of a
// policy. The record, not the silence, is the proof: a connection also fails when nobody
// listens.
func droppedFlow(ctx context.Context, env Env, p passage) (flow.Flow, error) {
	return awaitFlow(ctx, env, p, "that a policy dropped", flow.Dropped, func(f flow.Flow) bool {
		return f.DropReason == "POLICY_DENIED" || f.DropReason == "POLICY_DENY"
	})
}

// deniedFlow waits for the record of a packet that a rule dropped which denies, and not for
// want of one that allows.
func deniedFlow(ctx context.Context, env Env, p passage) (flow.Flow, error) {
	return awaitFlow(ctx, env, p, "that a policy denied", flow.Dropped, func(f flow.Flow) bool { return f.DropReason == "POLICY_DENY" })
}

// forwardedFlow waits for the record of a packet that came through.
func forwardedFlow(ctx context.Context, env Env, p passage) (flow.Flow, error) {
	return awaitFlow(ctx, env, p, "that came through", flow.Forwarded, func(flow.Flow) bool { return true })
}

// flowTime is how long agents may take to tell what they saw, on a machine that is busy.
const flowTime = 30 * time.Second

func awaitFlow(ctx context.Context, env Env, p passage, what string, verdict flow.Verdict, is func(flow.Flow) bool) (flow.Flow, error) {
	if env.Flows == nil {
		return flow.Flow{}, check.Final(driver.ErrNoFlows)
	}
	var found flow.Flow
	q := flow.Query{From: p.from, To: p.to, Port: p.port, Verdicts: []flow.Verdict{verdict}, Since: p.since, Node: p.node}
	err := until(ctx, flowTime, func() error {
		flows, err := env.Flows(ctx, q)
		switch {
		case errors.Is(err, driver.ErrNoFlows):
			return check.Final(err)
		case err != nil:
			return err
		}
		for _, f := range flows {
			if f.Destination.Port == p.port && !f.Reply && is(f) {
				found = f
				return nil
			}
		}
		return fmt.Errorf("no node has the record of a packet %s %s (%d others were seen)", p, what, len(flows))
	})
	return found, err
}
