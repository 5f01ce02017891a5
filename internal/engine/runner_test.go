package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/ui"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recorder keeps the events, as "id state".
type recorder struct {
	mu     sync.Mutex
	events []ui.Event
}

func (r *recorder) Emit(e ui.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func (r *recorder) steps() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, e := range r.events {
		if e.Type == ui.TypeStep {
			out = append(out, e.Step+" "+string(e.State))
		}
	}
	return out
}

func step(id string, needs ...string) plan.Step {
	kind, subject, _ := strings.Cut(id, "/")
	phase := map[string]string{"build": "build", "image": "build"}[kind]
	if phase == "" {
		phase = kind
	}
	return plan.Step{ID: id, Kind: plan.Kind(kind), Subject: subject, Needs: needs, Phase: phase, Title: "Title of " + id}
}

func steps(s ...plan.Step) plan.Plan { return plan.Plan{Steps: s} }

// sleeper is an action that takes what the map says, in seconds.
func sleeper(seconds map[string]float64) Action {
	return func(ctx context.Context, s plan.Step, report func(string, float64, float64)) (ui.State, error) {
		select {
		case <-time.After(time.Duration(seconds[s.ID] * float64(time.Second))):
			return ui.StateDone, nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

func TestRunOverlapsWhatItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seconds := map[string]float64{"build/kubernetes": 100, "build/nats": 130, "image/nats": 1, "cluster": 6, "deploy/nats": 5}
		a := sleeper(seconds)
		var rec recorder
		r := &Runner{Sink: &rec, Cores: 8, Actions: map[plan.Kind]Action{"build": a, "image": a, "cluster": a, "deploy": a}}
		done := step("build/runc")
		done.Done = true
		result, err := r.Run(t.Context(), steps(done, step("build/nats"), step("build/kubernetes"), step("image/nats", "build/nats"),
			step("cluster", "build/kubernetes", "build/runc"), step("deploy/nats", "cluster", "image/nats")))
		if err != nil {
			t.Fatal(err)
		}
		if result.Total != 136 { // 130 + 1 + 5, the cluster beside it
			t.Errorf("total %v s, want 136", result.Total)
		}
		if d := cmp.Diff(map[string]float64{"build": 131, "cluster": 6, "deploy": 5}, result.Phases); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(StepResult{State: ui.StateDone, Start: 100, End: 106}, result.Steps["cluster"]); d != "" {
			t.Error(d)
		}
		if result.Steps["build/runc"].State != ui.StateCached {
			t.Error("what was observed to be done is not cached")
		}
		want := []string{"build/runc cached", "build/kubernetes running", "build/nats running", "build/kubernetes done", "cluster running",
			"cluster done", "build/nats done", "image/nats running", "image/nats done", "deploy/nats running", "deploy/nats done"}
		if d := cmp.Diff(want, rec.steps()); d != "" {
			t.Error(d)
		}
	})
}

// With one place, the build that the longest chain waits for goes first.
func TestRunLimitsAndPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		running, most := 0, 0
		a := func(ctx context.Context, s plan.Step, _ func(string, float64, float64)) (ui.State, error) {
			mu.Lock()
			order = append(order, s.Subject)
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			running--
			mu.Unlock()
			return ui.StateDone, nil
		}
		small, big, middle := step("build/small"), step("build/big"), step("build/middle")
		small.CPUSeconds, big.CPUSeconds, middle.CPUSeconds = 5, 900, 200
		p := steps(small, middle, big, step("build/unknown"))
		r := &Runner{Actions: map[plan.Kind]Action{"build": a}, Limits: map[plan.Kind]int{"build": 1}, Cores: 4}
		if _, err := r.Run(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]string{"big", "middle", "small", "unknown"}, order); d != "" || most != 1 {
			t.Errorf("%d at a time, order:\n%s", most, d)
		}
	})
}

func TestRunMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		seconds, p := map[string]float64{}, plan.Plan{}
		for id, mib := range map[string]int{"build/linker": 3400, "build/a": 1000, "build/b": 1000, "build/c": 900, "deploy/free": 0} {
			s := step(id)
			s.MemoryMiB, seconds[id] = mib, 1
			p.Steps = append(p.Steps, s)
		}
		slices.SortFunc(p.Steps, func(a, b plan.Step) int { return b.MemoryMiB - a.MemoryMiB })
		a := sleeper(seconds)
		result, err := (&Runner{Actions: map[plan.Kind]Action{"build": a, "deploy": a}, MemoryMiB: 2000, Cores: 8}).Run(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		starts := map[string]float64{}
		for id, s := range result.Steps {
			starts[id] = s.Start
		}
		want := map[string]float64{"build/linker": 0, "build/a": 1, "build/b": 1, "build/c": 2, "deploy/free": 0}
		if d := cmp.Diff(want, starts); d != "" {
			t.Error(d)
		}
	})
}

func TestFirstErrorCancelsAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, cleanup := errors.New("compiler: exit status 1"), errors.New("cannot remove the temporary folder")
		cleaned := false
		r := &Runner{Cores: 8, Actions: map[plan.Kind]Action{
			"build": func(ctx context.Context, s plan.Step, _ func(string, float64, float64)) (ui.State, error) {
				switch s.Subject {
				case "bad":
					time.Sleep(3 * time.Second)
					return "", root
				case "messy":
					<-ctx.Done()
					return "", fmt.Errorf("%w after %w", cleanup, errors.New("signal: killed"))
				default:
					<-ctx.Done()
					time.Sleep(2 * time.Second) // cleans up
					cleaned = true
					return "", fmt.Errorf("go build: %w", context.Cause(ctx))
				}
			},
			"deploy": func(context.Context, plan.Step, func(string, float64, float64)) (ui.State, error) {
				t.Error("started after the failure")
				return "", nil
			},
		}}
		var rec recorder
		r.Sink = &rec
		result, err := r.Run(t.Context(), steps(step("build/slow"), step("build/bad"), step("build/messy"), step("deploy/x", "build/slow"), step("deploy/y", "deploy/x")))
		if !cleaned || result.Total != 5 {
			t.Errorf("the running action was not awaited: cleaned %v, %v s", cleaned, result.Total)
		}
		want := "build/bad: compiler: exit status 1\nbuild/messy: cannot remove the temporary folder after signal: killed"
		if err == nil || err.Error() != want {
			t.Errorf("got %v\nwant %s", err, want)
		}
		if s, ok := errors.AsType[*StepError](err); !ok || s.Step != "build/bad" || !errors.Is(err, root) {
			t.Errorf("the root cause is not first: %v", err)
		}
		wantSteps := map[string]StepResult{
			"build/bad":   {State: ui.StateFailed, Start: 0, End: 3, Reason: root.Error()},
			"build/messy": {State: ui.StateFailed, Start: 0, End: 3, Reason: cleanup.Error() + " after signal: killed"},
			"build/slow":  {State: ui.StateCancelled, Start: 0, End: 5, Reason: ErrStopped.Error()},
			"deploy/x":    {State: ui.StateCancelled, Start: 3, End: 3, Reason: ErrStopped.Error()},
			"deploy/y":    {State: ui.StateCancelled, Start: 3, End: 3, Reason: ErrStopped.Error()},
		}
		if d := cmp.Diff(wantSteps, result.Steps); d != "" {
			t.Error(d)
		}
	})
}

func TestInterrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		interrupted := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(interrupted) })
		a := sleeper(map[string]float64{"build/a": 10})
		result, err := (&Runner{Actions: map[plan.Kind]Action{"build": a, "deploy": a}}).Run(ctx, steps(step("build/a"), step("deploy/a", "build/a")))
		if !errors.Is(err, interrupted) || err.Error() != "interrupted" {
			t.Errorf("got %v, want the cause alone", err)
		}
		for id, s := range result.Steps {
			if s.State != ui.StateCancelled || s.Reason != "interrupted" {
				t.Errorf("%s: %+v", id, s)
			}
		}
		// One that was over before it began touches nothing.
		never := func(context.Context, plan.Step, func(string, float64, float64)) (ui.State, error) {
			t.Error("started")
			return "", nil
		}
		if _, err := (&Runner{Actions: map[plan.Kind]Action{"build": never}}).Run(ctx, steps(step("build/a"))); !errors.Is(err, interrupted) {
			t.Errorf("got %v", err)
		}
	})
}

func TestSkips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		verified := false
		a := func(_ context.Context, s plan.Step, _ func(string, float64, float64)) (ui.State, error) {
			if s.ID == "image/fdb" {
				return Skip(plan.Cause{Kind: plan.CauseUnreachable, Root: "image " + s.Subject + " is not reachable"})
			}
			verified = verified || s.ID == "verify/cluster"
			return ui.StateDone, nil
		}
		cluster := step("verify/cluster", "cluster")
		cluster.After = []string{"deploy/app"}
		result, err := (&Runner{Actions: map[plan.Kind]Action{"image": a, "cluster": a, "deploy": a, "verify": a}}).Run(t.Context(),
			steps(step("image/fdb"), step("cluster"), step("deploy/fdb", "cluster", "image/fdb"), step("deploy/app", "deploy/fdb"), cluster))
		if err != nil {
			t.Fatal(err)
		}
		for id, want := range map[string]string{
			"image/fdb":  "image fdb is not reachable",
			"deploy/fdb": "needs image/fdb, which is skipped: image fdb is not reachable",
			"deploy/app": "needs image/fdb, which is skipped: image fdb is not reachable",
		} {
			if got := result.Steps[id]; got.State != ui.StateSkipped || got.Reason != want {
				t.Errorf("%s: %+v, want %q", id, got, want)
			}
		}
		if c := result.Steps["deploy/app"].Cause; c.Kind != plan.CauseUnreachable || c.Via != "image/fdb" || c.Root != "image fdb is not reachable" {
			t.Errorf("the cause lost its root on the way: %+v", c)
		}
		if !verified {
			t.Error("what only stands after a skipped step did not run")
		}
	})
}

// What the plan leaves out is told with its reason, and is no failure.
func TestRunLeavesOut(t *testing.T) {
	r := &Runner{Actions: map[plan.Kind]Action{plan.KindDeploy: func(context.Context, plan.Step, func(string, float64, float64)) (ui.State, error) {
		return ui.StateDone, nil
	}}}
	result, err := r.Run(t.Context(), plan.Plan{Steps: []plan.Step{
		{ID: "deploy/a", Kind: plan.KindDeploy, Skip: plan.Cause{Root: "no image"}},
		{ID: "deploy/b", Kind: plan.KindDeploy},
		{ID: "deploy/c", Kind: plan.KindDeploy, After: []string{"deploy/a"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if s := result.Steps["deploy/a"]; s.State != ui.StateSkipped || s.Reason != "no image" {
		t.Errorf("a: %+v", s)
	}
	for _, id := range []string{"deploy/b", "deploy/c"} {
		if s := result.Steps[id]; s.State != ui.StateDone {
			t.Errorf("%s: %+v", id, s)
		}
	}
}

func TestKeepGoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := func(_ context.Context, s plan.Step, _ func(string, float64, float64)) (ui.State, error) {
			time.Sleep(time.Second)
			if s.Subject == "bad" {
				return "", errors.New("broken")
			}
			return ui.StateCached, nil
		}
		r := &Runner{Actions: map[plan.Kind]Action{"verify": a}, KeepGoing: map[plan.Kind]bool{"verify": true}, Limits: map[plan.Kind]int{"verify": 1}}
		result, err := r.Run(t.Context(), steps(step("verify/bad"), step("verify/good"), step("verify/behind", "verify/bad")))
		if err == nil || err.Error() != "verify/bad: broken" {
			t.Errorf("got %v", err)
		}
		if s := result.Steps["verify/good"]; s.State != ui.StateCached {
			t.Errorf("good: %+v", s)
		}
		if s := result.Steps["verify/behind"]; s.State != ui.StateSkipped || s.Reason != "needs verify/bad, which failed" {
			t.Errorf("behind: %+v", s)
		}
	})
}

func TestPanicIsAnError(t *testing.T) {
	a := func(_ context.Context, s plan.Step, _ func(string, float64, float64)) (ui.State, error) {
		panic("index out of range")
	}
	result, err := (&Runner{Actions: map[plan.Kind]Action{"build": a}}).Run(t.Context(), steps(step("build/a")))
	p, ok := errors.AsType[*PanicError](err)
	if !ok || err.Error() != "build/a: panic: index out of range" || !strings.Contains(string(p.Stack), "runner_test.go") {
		t.Errorf("got %v", err)
	}
	if result.Steps["build/a"].State != ui.StateFailed {
		t.Errorf("%+v", result)
	}
}

func TestRunRefuses(t *testing.T) {
	for _, p := range []plan.Plan{steps(step("build/a", "build/b")), steps(step("build/a"), step("deploy/a"))} {
		called := false
		a := func(context.Context, plan.Step, func(string, float64, float64)) (ui.State, error) {
			called = true
			return "", nil
		}
		if _, err := (&Runner{Actions: map[plan.Kind]Action{"build": a}}).Run(t.Context(), p); err == nil || called {
			t.Errorf("%v: err %v, called %v", p, err, called)
		}
	}
	if _, err := (&Runner{}).Run(t.Context(), plan.Plan{}); err != nil {
		t.Errorf("an empty plan: %v", err)
	}
}

// Whatever the plan: nothing runs before its needs, limits hold, each step ends once.
func TestRunRandomPlans(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			var p plan.Plan
			seconds := map[string]float64{}
			for i := range 2 + rnd.IntN(25) {
				s := step(fmt.Sprintf("%s/%d", []string{"build", "image", "deploy"}[rnd.IntN(3)], i))
				for _, before := range p.Steps {
					switch rnd.IntN(8) {
					case 0:
						s.Needs = append(s.Needs, before.ID)
					case 1:
						s.After = append(s.After, before.ID)
					}
				}
				s.Done = len(s.Needs) == 0 && rnd.IntN(6) == 0
				s.CPUSeconds = float64(rnd.IntN(50))
				seconds[s.ID] = float64(rnd.IntN(9))
				p.Steps = append(p.Steps, s)
			}
			wait := sleeper(seconds)
			var mu sync.Mutex
			running := map[plan.Kind]int{}
			var rec recorder
			a := func(ctx context.Context, s plan.Step, report func(string, float64, float64)) (ui.State, error) {
				mu.Lock()
				running[s.Kind]++
				if running[s.Kind] > 2 {
					t.Errorf("%d of kind %s at a time", running[s.Kind], s.Kind)
				}
				told := rec.steps()
				for _, id := range s.Waits() {
					if !slices.ContainsFunc(told, func(e string) bool { return strings.HasPrefix(e, id+" ") && e != id+" running" }) {
						t.Errorf("%s began before %s ended", s.ID, id)
					}
				}
				mu.Unlock()
				report("half", 1, 2)
				state, err := wait(ctx, s, report)
				mu.Lock()
				defer mu.Unlock()
				running[s.Kind]--
				if err == nil && rnd.IntN(10) == 0 {
					return Skip(plan.Cause{Root: "by chance"})
				}
				return state, err
			}
			r := &Runner{Sink: &rec, Actions: map[plan.Kind]Action{"build": a, "image": a, "deploy": a}, Limits: map[plan.Kind]int{"build": 2, "image": 2, "deploy": 2}}
			result, err := r.Run(t.Context(), p)
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			ends := map[string]int{}
			for _, e := range rec.events {
				if e.Type == ui.TypeStep && e.State != ui.StateRunning {
					ends[e.Step]++
				}
				if e.ETA < 0 || math.IsNaN(e.ETA) || math.IsInf(e.ETA, 0) {
					t.Errorf("seed %d: ETA %v", seed, e.ETA)
				}
			}
			for _, s := range p.Steps {
				if ends[s.ID] != 1 || result.Steps[s.ID].State == "" {
					t.Errorf("seed %d: %s ended %d times as %+v", seed, s.ID, ends[s.ID], result.Steps[s.ID])
				}
			}
		})
	}
}

// The time left follows what is measured: a machine at half the assumed speed, and progress
// told by a library through Tap.
func TestForecast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const cores, speed, cpu = 4, 2.0, 1000.0 // CPU-seconds a second
		var rec recorder
		r := &Runner{Sink: &rec, Cores: cores}
		start := time.Now()
		a := sleeper(map[string]float64{"cluster": 6})
		r.Actions = map[plan.Kind]Action{"cluster": a, "build": func(ctx context.Context, s plan.Step, _ func(string, float64, float64)) (ui.State, error) {
			for i := range 100 {
				r.Tap().Emit(ui.Event{Type: ui.TypeProgress, Step: s.ID, Done: float64(i), Total: 100})
				time.Sleep(time.Duration(cpu / speed / 100 * float64(time.Second)))
			}
			return ui.StateDone, nil
		}}
		build := step("build/kubernetes")
		build.CPUSeconds = cpu
		if _, err := r.Run(t.Context(), steps(build, step("cluster", build.ID))); err != nil {
			t.Fatal(err)
		}
		total := time.Since(start).Seconds()
		var worst, overalls float64
		for _, e := range rec.events {
			if e.Type != ui.TypeProgress || e.Step != "" {
				continue
			}
			overalls++
			elapsed := e.Time.Sub(start).Seconds()
			if elapsed < 60 { // the assumption is still worth something
				continue
			}
			worst = max(worst, math.Abs(elapsed+e.ETA-total)/total)
		}
		if worst > 0.15 {
			t.Errorf("from the first minute on, the end was foretold wrong by up to %.0f %%", 100*worst)
		}
		if overalls > total/overallEvery.Seconds()+10 {
			t.Errorf("%.0f overall events in %.0f s", overalls, total)
		}
	})
}

// Builds that tell nothing do not make the machine look slow.
func TestForecastOfQuietBuilds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rec recorder
		seconds, p := map[string]float64{}, plan.Plan{}
		for i := range 6 {
			s := step(fmt.Sprint("build/", i))
			s.CPUSeconds, seconds[s.ID] = 320, 300 // three at a time on 4 cores
			p.Steps = append(p.Steps, s)
		}
		if _, err := (&Runner{Sink: &rec, Cores: 4, Actions: map[plan.Kind]Action{"build": sleeper(seconds)}}).Run(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		start := rec.events[0].Time
		for _, e := range rec.events {
			if e.Type == ui.TypeProgress && e.Step == "" && e.Done < e.Total {
				if foretold := e.Time.Sub(start).Seconds() + e.ETA; foretold < 450 || foretold > 900 {
					t.Fatalf("after %v the end was foretold for %.0f s, it came after 600", e.Time.Sub(start), foretold)
				}
			}
		}
	})
}

func TestTapAfterRun(t *testing.T) {
	var rec recorder
	r := &Runner{Sink: &rec}
	r.Tap().Emit(ui.Event{Type: ui.TypeProgress, Step: "x", Done: 1, Total: 2})
	if !slices.ContainsFunc(rec.events, func(e ui.Event) bool { return e.Step == "x" }) {
		t.Error("an event outside a run was lost")
	}
}
