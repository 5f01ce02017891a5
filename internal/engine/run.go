package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/ui"
)

// overallEvery is how often the overall progress is told when no step starts or ends.
const overallEvery = 2 * time.Second

// run is one call of Run. One goroutine, the caller's, owns everything but forecast.
type run struct {
	*Runner
	plan     plan.Plan
	cancel   context.CancelCauseFunc
	started  time.Time
	forecast *forecast
	priority map[string]float64 // seconds from a step's start to the milestone of its stage
	ahead    []plan.Milestone   // that were not told to be reached

	waiting  []plan.Step
	cores    int
	running  map[plan.Kind]int
	memory   int // MiB of the running steps
	finished chan finished
	ended    map[string]StepResult
	errs     []error
}

type finished struct {
	step  plan.Step
	state ui.State
	err   error
}

func newRun(r *Runner, p plan.Plan, cancel context.CancelCauseFunc) *run {
	cores := r.Cores
	if cores <= 0 {
		cores = runtime.GOMAXPROCS(0)
	}
	x := &run{
		Runner: r, cores: cores, plan: p, cancel: cancel, started: time.Now(),
		forecast: newForecast(p, cores),
		running:  map[plan.Kind]int{},
		finished: make(chan finished),
		ended:    map[string]StepResult{},
		priority: map[string]float64{},
	}
	for stage := range len(p.Milestones) + 1 {
		tails := x.forecast.tails(float64(cores), stage)
		for _, s := range p.Steps {
			if s.Stage == stage {
				x.priority[s.ID] = tails[s.ID]
			}
		}
	}
	return x
}

func (x *run) run(ctx context.Context) (Result, error) {
	for _, s := range x.plan.Steps {
		if s.Done {
			x.end(s, StepResult{State: ui.StateCached}, nil)
		} else {
			x.waiting = append(x.waiting, s)
		}
	}
	slices.SortStableFunc(x.waiting, func(a, b plan.Step) int {
		return cmp.Or(cmp.Compare(a.Stage, b.Stage), cmp.Compare(x.priority[b.ID], x.priority[a.ID]))
	})
	x.expect()
	tick := time.NewTicker(overallEvery)
	defer tick.Stop()
	cancelled := ctx.Done()
	for {
		x.advance(ctx)
		x.tellReached()
		x.overall()
		if x.busy() == 0 {
			break
		}
		select {
		case f := <-x.finished:
			x.conclude(ctx, f)
		case <-tick.C:
		case <-cancelled:
			// What never started is told at once; what runs is waited for.
			cancelled = nil
		}
	}
	return x.result(ctx)
}

func (x *run) busy() int {
	n := 0
	for _, k := range x.running {
		n += k
	}
	return n
}

// advance starts what can start and ends what never will, until neither changes.
func (x *run) advance(ctx context.Context) {
	for again := true; again; {
		again = false
		x.waiting = slices.DeleteFunc(x.waiting, func(s plan.Step) bool {
			if ctx.Err() != nil {
				x.end(s, x.never(ui.StateCancelled, context.Cause(ctx).Error()), nil)
				return true
			}
			if verdict, ok := x.blocked(s); ok {
				x.end(s, verdict, nil)
				again = true
				return true
			}
			if !x.ready(s) {
				return false
			}
			if limit := x.limit(s.Kind); limit > 0 && x.running[s.Kind] >= limit {
				return false
			}
			if s.MemoryMiB > 0 && x.MemoryMiB > 0 && x.memory > 0 && x.memory+s.MemoryMiB > x.MemoryMiB {
				return false
			}
			x.start(ctx, s)
			return true
		})
	}
}

func (x *run) limit(k plan.Kind) int {
	if limit := x.Limits[k]; limit > 0 || k != plan.KindBuild {
		return limit
	}
	return x.cores/2 + 1
}

func (x *run) ready(s plan.Step) bool {
	for _, id := range s.Waits() {
		if _, ended := x.ended[id]; !ended {
			return false
		}
	}
	return true
}

// blocked says how s ends without having run, because of how one of its needs ended,
// or because the plan leaves it out.
func (x *run) blocked(s plan.Step) (StepResult, bool) {
	if !s.Skip.IsZero() {
		return x.skip(s.Skip), true
	}
	for _, id := range s.Needs {
		need, ended := x.ended[id]
		if !ended {
			continue
		}
		switch need.State {
		case ui.StateSkipped:
			if need.Cause.Via != "" {
				return x.skip(need.Cause), true // the root is what a person wants to read
			}
			return x.skip(need.Cause.For(id)), true
		case ui.StateFailed:
			return x.skip(plan.Cause{Kind: plan.CauseFailed, Root: need.Reason, Via: id}), true
		case ui.StateCancelled:
			return x.never(ui.StateCancelled, fmt.Sprintf("needs %s, which was cancelled", id)), true
		}
	}
	return StepResult{}, false
}

func (x *run) skip(c plan.Cause) StepResult {
	r := x.never(ui.StateSkipped, c.String())
	r.Cause = c
	return r
}

func (x *run) never(state ui.State, reason string) StepResult {
	at := time.Since(x.started).Seconds()
	return StepResult{State: state, Reason: reason, Start: at, End: at}
}

func (x *run) start(ctx context.Context, s plan.Step) {
	x.running[s.Kind]++
	x.memory += s.MemoryMiB
	x.forecast.start(s.ID)
	x.sink().Emit(ui.Event{Time: time.Now(), Type: ui.TypeStep, Step: s.ID, Phase: s.Phase, State: ui.StateRunning, Message: s.Title})
	x.log().DebugContext(ctx, "step starts", "step", s.ID)
	report := func(msg string, done, total float64) {
		x.forecast.progress(s.ID, done, total)
		x.sink().Emit(ui.Event{Time: time.Now(), Type: ui.TypeProgress, Step: s.ID, Phase: s.Phase, Message: msg, Done: done, Total: total})
	}
	go func() {
		f := finished{step: s}
		f.err = guard(func() (err error) {
			f.state, err = x.Actions[s.Kind](ctx, s, report)
			return err
		})
		x.finished <- f
	}()
}

// conclude decides what a step that returned means for the others.
func (x *run) conclude(ctx context.Context, f finished) {
	s := f.step
	x.running[s.Kind]--
	x.memory -= s.MemoryMiB
	start, end := x.forecast.end(s.ID)
	result := StepResult{State: f.state, Start: start.Sub(x.started).Seconds(), End: end.Sub(x.started).Seconds()}
	skip, skipped := errors.AsType[*SkipError](f.err)
	var failure error
	switch {
	case skipped:
		result.State, result.Reason, result.Cause = ui.StateSkipped, skip.Error(), skip.Cause
	case f.state == ui.StateSkipped:
		result.State, result.Reason = ui.StateSkipped, "no reason given"
		if f.err != nil {
			result.Reason = f.err.Error()
		}
		result.Cause = plan.Cause{Kind: plan.CauseOther, Root: result.Reason}
	case f.err == nil && f.state == ui.StateFailed:
		failure = errors.New("failed without saying why")
	case f.err == nil:
		if result.State == "" {
			result.State = ui.StateDone
		}
	case ctx.Err() != nil && (errors.Is(f.err, context.Canceled) || errors.Is(f.err, context.Cause(ctx))):
		result.State, result.Reason = ui.StateCancelled, context.Cause(ctx).Error()
	default:
		failure = f.err
	}
	if failure != nil {
		result.State, result.Reason = ui.StateFailed, failure.Error()
		x.errs = append(x.errs, &StepError{Step: s.ID, Err: failure})
		if p, ok := errors.AsType[*PanicError](failure); ok {
			x.log().ErrorContext(ctx, "action panicked", "step", s.ID, "panic", p.Value, "stack", string(p.Stack))
		}
		if !x.KeepGoing[s.Kind] && ctx.Err() == nil {
			x.cancel(ErrStopped)
		}
	}
	x.end(s, result, failure)
}

// end records a step's result and tells it.
func (x *run) end(s plan.Step, result StepResult, failure error) {
	x.ended[s.ID] = result
	x.forecast.finish(s.ID)
	e := ui.Event{Time: time.Now(), Type: ui.TypeStep, Step: s.ID, Phase: s.Phase, State: result.State, Message: s.Title, Seconds: result.End - result.Start}
	if result.Reason != "" {
		e.Message = result.Reason
	}
	if failure != nil {
		e.Message, e.Error = s.Title, failure.Error()
	}
	x.sink().Emit(e)
}

// overall tells how far the whole plan is.
func (x *run) overall() {
	e := ui.Event{
		Time: time.Now(), Type: ui.TypeProgress, Done: float64(len(x.ended)), Total: float64(len(x.plan.Steps)), Unit: "steps",
		ETA: math.Round(x.forecast.left(len(x.plan.Milestones))), Message: x.next(),
	}
	x.sink().Emit(e)
}

func (x *run) result(ctx context.Context) (Result, error) {
	r := Result{Steps: x.ended, Phases: map[string]float64{}, Total: time.Since(x.started).Seconds()}
	first, last := map[string]float64{}, map[string]float64{}
	for _, s := range x.plan.Steps {
		e := x.ended[s.ID]
		if e.End <= e.Start {
			continue
		}
		if at, ok := first[s.Phase]; !ok || e.Start < at {
			first[s.Phase] = e.Start
		}
		last[s.Phase] = max(last[s.Phase], e.End)
	}
	for phase := range first {
		r.Phases[phase] = last[phase] - first[phase]
	}
	errs := x.errs
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, ErrStopped) {
		errs = append([]error{cause}, errs...)
	}
	return r, errors.Join(errs...)
}
