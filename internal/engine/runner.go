package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Action does one step. It returns when everything it started has ended, soon after ctx
// is cancelled. report may be called from any goroutine until then; done and total are 0
// when there is nothing to count.
//
// The state is StateDone or StateCached on success (an empty one is StateDone). A step
// that cannot be done here and need not be returns StateSkipped and the reason as error
// (see [Skip]). Any other error is a failure.
type Action func(ctx context.Context, s plan.Step, report func(msg string, done, total float64)) (ui.State, error)

// SkipError is what an action returns that cannot run here and need not.
type SkipError struct{ Cause plan.Cause }

func (e *SkipError) Error() string { return e.Cause.String() }

// Skip is what such an action returns.
func Skip(c plan.Cause) (ui.State, error) { return ui.StateSkipped, &SkipError{Cause: c} }

// PanicError is an action's panic, turned into the step's error.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// ErrStopped is the cause of the cancellation that the first failure brings about.
var ErrStopped = errors.New("stopped because another step failed")

// StepResult is how one step ended. Start and End are seconds since the run began.
type StepResult struct {
	State  ui.State
	Start  float64
	End    float64
	Reason string // why it was skipped, cancelled or failed
	// Cause of a skipped step.
	Cause plan.Cause
}

// Result is how a run ended, in seconds of wall time.
type Result struct {
	Steps map[string]StepResult
	// Phases: from the start of a phase's first step to the end of its last.
	Phases map[string]float64
	Total  float64
}

// Runner runs plans.
type Runner struct {
	// Actions by kind; a kind of the plan without one is an error before anything runs.
	Actions map[plan.Kind]Action
	Sink    ui.Sink      // nil: discarded
	Log     *slog.Logger // nil: discarded
	// Limits is how many steps of a kind run at a time. Absent or 0: no limit, but for
	// builds, of which Cores/2+1 run: each uses all cores most of the time, and what the
	// longest chain waits for must not share them with everything else.
	Limits map[plan.Kind]int
	// MemoryMiB is what running steps may need together, by their own MemoryMiB; one that
	// needs more than all runs alone. 0: no limit.
	MemoryMiB int
	// KeepGoing names the kinds whose failures do not stop the other steps; Run still
	// returns them. Steps that need a failed one are skipped.
	KeepGoing map[plan.Kind]bool
	// Cores that CPU-bound steps share, for the time that is left. Default: what Go may use.
	Cores int

	current atomic.Pointer[run]
}

// StepError is the failure of one step.
type StepError struct {
	Step string
	Err  error
}

func (e *StepError) Error() string { return e.Step + ": " + e.Err.Error() }
func (e *StepError) Unwrap() error { return e.Err }

// Run runs what is pending in p, each step as soon as what it waits for has ended, those of the
// lowest stage first, and of these the ones with the longest way to their milestone. When there
// is something to compile it tells when milestones are expected, and each when it is reached
// ([ui.TypeMilestone]). The first failure, like the end of ctx,
// cancels the running actions, waits for them and starts nothing more; the error joins
// everything that went wrong, the root cause first. The result is valid with an error too.
func (r *Runner) Run(ctx context.Context, p plan.Plan) (Result, error) {
	if err := p.Validate(); err != nil {
		return Result{}, err
	}
	for _, s := range p.Steps {
		if !s.Done && r.Actions[s.Kind] == nil {
			return Result{}, fmt.Errorf("engine: step %s: no action for kind %q", s.ID, s.Kind)
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x := newRun(r, p, cancel)
	r.current.Store(x)
	defer r.current.CompareAndSwap(x, nil)
	return x.run(ctx)
}

// Tap is a sink for what actions call: events go on to Sink, and the runner learns from
// those that carry a running step's ID how far it is.
func (r *Runner) Tap() ui.Sink {
	return ui.SinkFunc(func(e ui.Event) {
		if x := r.current.Load(); x != nil && e.Type == ui.TypeProgress && e.Step != "" {
			x.forecast.progress(e.Step, e.Done, e.Total)
		}
		r.sink().Emit(e)
	})
}

func (r *Runner) sink() ui.Sink {
	if r.Sink == nil {
		return ui.Discard
	}
	return r.Sink
}

func (r *Runner) log() *slog.Logger {
	if r.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return r.Log
}

// guard turns a panic into an error.
func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return f()
}
