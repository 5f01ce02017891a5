package engine

import (
	"context"
	"math"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// coldPlan is what a first `up` of the default has to do, with the costs of the lock.
func coldPlan(t *testing.T) plan.Plan {
	t.Helper()
	root := filepath.Join("..", "..")
	cat, err := catalog.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	locked, err := lock.Load(filepath.Join(root, lock.FileName))
	if err != nil {
		t.Fatal(err)
	}
	cat.EachBinary(func(b *catalog.Binary) {
		if cpu := locked.Platforms["linux/amd64"].Binaries[b.Name].CPUSeconds; cpu > 0 {
			b.CPUSeconds = cpu
		}
	})
	cat = cat.For(spec.PluginCilium, "")
	components, err := cat.Select("local", nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Up(plan.Input{
		Spec: spec.Default(), Components: components, Distribution: cat.Distribution, Bootstrap: cat.Overlays["local"].Bootstrap, Mirror: true, Nodes: true,
		Missing: map[string]plan.Cause{"grafana": {Kind: plan.CauseUnreachable, Root: "no registry"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// machine is two cores that builds share, in two lanes as internal/build has them: one for large
// programs and one for small ones, each left when only the linker runs. Those of a later stage
// are nicer.
type machine struct {
	cores      float64
	idle       func() float64 // cores that the cluster takes
	big, small chan struct{}

	mu   sync.Mutex
	busy map[string]*process // by step
}

type process struct{ weight, most, share float64 } // by the kernel, and in cores

const (
	largeBuild = 150  // CPU-seconds
	linkPart   = 0.08 // of a build, on one core
	nicer      = 4    // each stage
	tick       = 500 * time.Millisecond
)

func newMachine(cores float64, idle func() float64) *machine {
	return &machine{cores: cores, idle: idle, big: make(chan struct{}, 1), small: make(chan struct{}, 1), busy: map[string]*process{}}
}

func (m *machine) compile(_ context.Context, s plan.Step, _ func(string, float64, float64)) (ui.State, error) {
	lane := m.small
	if s.CPUSeconds > largeBuild {
		lane = m.big
	}
	lane <- struct{}{}
	m.spend(s, s.CPUSeconds*(1-linkPart), m.cores)
	<-lane
	m.spend(s, s.CPUSeconds*linkPart, 1)
	return ui.StateDone, nil
}

// spend takes CPU-seconds, on at most so many cores.
func (m *machine) spend(s plan.Step, cpu, most float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &process{weight: math.Pow(1.25, float64(-nicer*s.Stage)), most: most} // sched_setattr(2): a quarter more for each step of nice
	m.busy[s.ID] = p
	for cpu > 0 {
		m.mu.Unlock()
		time.Sleep(tick)
		m.mu.Lock()
		m.schedule()
		cpu -= p.share * tick.Seconds()
	}
	delete(m.busy, s.ID)
}

// schedule shares the cores by weight; what one cannot use is for the others.
func (m *machine) schedule() {
	free := max(0.1, m.cores-m.idle())
	for _, p := range m.busy {
		p.share = 0
	}
	for range m.busy {
		all := 0.0
		for _, p := range m.busy {
			if p.share < p.most {
				all += p.weight
			}
		}
		given := 0.0
		for _, p := range m.busy {
			if p.share < p.most {
				more := min(p.most-p.share, free*p.weight/all)
				p.share += more
				given += more
			}
		}
		free -= given
	}
}

// cold runs a plan with fake steps on a fake clock, and returns when each step ended.
func cold(t *testing.T, p plan.Plan, load float64) (ends map[string]float64, total float64) {
	synctest.Test(t, func(t *testing.T) {
		var up sync.Map
		m := newMachine(2, func() float64 {
			if _, ready := up.Load(plan.KindNodes); ready {
				return load
			}
			return 0
		})
		takes := func(s plan.Step) (ui.State, error) {
			time.Sleep(time.Duration(nominal[s.Kind] * float64(time.Second)))
			up.Store(s.Kind, true)
			return ui.StateDone, nil
		}
		r := &Runner{Cores: 2, Actions: map[plan.Kind]Action{plan.KindBuild: m.compile}}
		for kind := range nominal {
			if kind != plan.KindBuild {
				r.Actions[kind] = func(_ context.Context, s plan.Step, _ func(string, float64, float64)) (ui.State, error) {
					return takes(s)
				}
			}
		}
		result, err := r.Run(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		ends, total = map[string]float64{}, result.Total
		for id, s := range result.Steps {
			ends[id] = s.End
		}
	})
	return ends, total
}

// What a person waits for is there in the first half of a cold run on two cores: the plan of the
// real catalogue, with the costs of the lock, through the real runner. Without stages, which is how
// builds were ordered before there were milestones, the nodes come last.
func TestWhatIsWaitedForIsBuiltFirst(t *testing.T) {
	p := coldPlan(t)
	flat := plan.Plan{Steps: append([]plan.Step(nil), p.Steps...)}
	for i := range flat.Steps {
		flat.Steps[i].Stage = 0
		if flat.Steps[i].Kind == plan.KindBuild {
			flat.Steps[i].After = nil
		}
	}
	before, long := cold(t, flat, 0)
	after, total := cold(t, p, 0)
	say := func(what string, ends map[string]float64, total float64) {
		t.Logf("%s: nodes Ready %.3f, NATS verified %.3f of %.0f s", what, ends["nodes"]/total, ends["verify/nats"]/total, total)
	}
	say("by cost", before, long)
	say("by stage", after, total)
	const load = 0.4 // cores of an idle cluster of five nodes, README.md
	loadedBefore, loadedLong := cold(t, flat, load)
	loadedAfter, loadedTotal := cold(t, p, load)
	say("by cost, with an idle cluster beside", loadedBefore, loadedLong)
	say("by stage, with an idle cluster beside", loadedAfter, loadedTotal)
	if before["nodes"]/long < 0.8 {
		t.Errorf("without stages the nodes are Ready at %.2f: the model is not what was measured (0.90)", before["nodes"]/long)
	}
	if nodes, nats := after["nodes"]/total, after["verify/nats"]/total; nodes > 0.5 || nats > 0.55 {
		t.Errorf("nodes Ready at %.2f and NATS verified at %.2f of the total, want 0.5 and 0.55", nodes, nats)
	}
	if total > 1.03*long {
		t.Errorf("%.0f s in all, before it was %.0f", total, long)
	}
}
