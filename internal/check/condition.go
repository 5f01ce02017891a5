package check

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// State of a condition. Skipped is never shown, or counted, as success.
type State string

const (
	Running   State = "running"
	Succeeded State = "succeeded"
	Skipped   State = "skipped"
	Failed    State = "failed"
)

// DefaultTimeout bounds a condition that states none: nothing waits without a deadline.
const DefaultTimeout = 2 * time.Minute

// Result is what one probe saw. Message is a line for a person: on success what
// was proven, otherwise what is missing and what to do about it.
type Result struct {
	State   State
	Message string
	Err     error
	// Took is how long it took, when the probe knows better than who called it.
	Took time.Duration
	// Progress, of a Running result, is another text whenever what is waited for has come
	// nearer: that gives it the whole time again, as far as [MostExtension] goes.
	Progress string
}

// MostExtension is how many times its timeout a condition that makes progress may take: nothing
// waits without a deadline.
const MostExtension = 5

// OK, Wait, Skip and Fail build the four results.
func OK(format string, a ...any) Result {
	return Result{State: Succeeded, Message: fmt.Sprintf(format, a...)}
}

// Wait says that the condition does not hold yet and why.
func Wait(format string, a ...any) Result {
	return Result{State: Running, Message: fmt.Sprintf(format, a...)}
}

// Skip says that the condition cannot be tested here and why.
func Skip(format string, a ...any) Result {
	return Result{State: Skipped, Message: fmt.Sprintf(format, a...)}
}

// Fail says that waiting longer will not help.
func Fail(err error) Result { return Result{State: Failed, Message: err.Error(), Err: err} }

// Condition is something that is waited for.
type Condition struct {
	Component string        // what it belongs to: a component, "cluster", "host"
	Name      string        // short and stable, such as "nodes-ready"
	Timeout   time.Duration // DefaultTimeout when zero
	Interval  time.Duration // between probes; 100 ms when zero
	// Probe looks once. It returns Running to be asked again.
	Probe func(ctx context.Context) Result
}

// ErrTimeout is wrapped by the error of a condition whose deadline passed.
var ErrTimeout = errors.New("timed out")

// Await probes c until it is no longer Running, its deadline passes or ctx ends.
// report, when not nil, is called with every result. After a timeout the result is
// Failed and says what was waited for and the last thing seen.
func Await(ctx context.Context, c Condition, report func(Result)) Result {
	timeout, interval := c.Timeout, c.Interval
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	if interval == 0 {
		interval = 100 * time.Millisecond
	}
	began := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	deadline := time.AfterFunc(timeout, func() { cancel(ErrTimeout) })
	defer deadline.Stop()
	progress := ""
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var last Result // that was not disturbed by the end of ctx
	for {
		r := c.Probe(ctx)
		if ctx.Err() == nil || last.Message == "" {
			last = r
		}
		if r.State != Running {
			if r.State == Failed && ctx.Err() != nil {
				return expired(ctx, c, time.Since(began), last)
			}
			if report != nil {
				report(r)
			}
			return r
		}
		if report != nil {
			report(r)
		}
		if r.Progress != "" && r.Progress != progress && ctx.Err() == nil {
			progress = r.Progress
			deadline.Reset(min(timeout, MostExtension*timeout-time.Since(began)))
		}
		select {
		case <-ctx.Done():
			return expired(ctx, c, time.Since(began), last)
		case <-tick.C:
		}
	}
}

func expired(ctx context.Context, c Condition, took time.Duration, last Result) Result {
	cause := context.Cause(ctx)
	if errors.Is(cause, ErrTimeout) {
		return Fail(fmt.Errorf("%s/%s: %w after %s: %s", c.Component, c.Name, ErrTimeout, took.Round(time.Second), last.Message))
	}
	return Fail(fmt.Errorf("%s/%s: %w (last: %s)", c.Component, c.Name, cause, last.Message))
}
