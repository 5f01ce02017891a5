package engine

import (
	"sync"
	"time"

	"github.com/orrery-dev/orrery/internal/plan"
)

// nominal is the wall time in seconds of steps that do not compile, on a machine with 4
// cores. It orders the steps and bounds the time left from below; nothing depends on it.
var nominal = map[plan.Kind]float64{
	plan.KindBuild:   5, // of unknown size
	plan.KindImage:   1,
	plan.KindPrepare: 1,
	plan.KindCluster: 6,
	plan.KindNodes:   3,
	plan.KindDeploy:  6,
	plan.KindVerify:  5,
}

// The speed of compiling is measured; until there is something to measure it is assumed
// that most of the cores work for us, with the weight of a measurement this long.
const (
	assumedShare  = 0.8
	assumedWeight = 15 // seconds
	// unfinished is the most that a running step's own count may claim: linking, and
	// whatever follows the last counted thing, is not counted.
	unfinished = 0.95
)

// forecast knows how far each step is and how long the rest will take.
type forecast struct {
	mu    sync.Mutex
	plan  plan.Plan
	cores float64
	steps map[string]*course
	// Compiling: when it began, and how long it went on, which is what the speed is measured over.
	builds     int // running now
	buildSince time.Time
	buildTime  time.Duration
}

type course struct {
	step           plan.Step
	fraction       float64
	started, ended time.Time
	over           bool
	told           bool // how far it is
}

func newForecast(p plan.Plan, cores int) *forecast {
	f := &forecast{plan: p, cores: float64(cores), steps: map[string]*course{}}
	for _, s := range p.Steps {
		f.steps[s.ID] = &course{step: s, over: s.Done}
	}
	return f
}

func (f *forecast) start(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.steps[id]
	c.started = time.Now()
	if c.step.Kind == plan.KindBuild {
		if f.builds == 0 {
			f.buildSince = c.started
		}
		f.builds++
	}
}

func (f *forecast) progress(id string, done, total float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.steps[id]; c != nil && !c.over && total > 0 {
		c.told = true
		c.fraction = min(max(done/total, c.fraction, 0), unfinished)
	}
}

// end returns when the step began and ended.
func (f *forecast) end(id string) (start, end time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.steps[id]
	c.ended = time.Now()
	if c.step.Kind == plan.KindBuild {
		if f.builds--; f.builds == 0 {
			f.buildTime += c.ended.Sub(f.buildSince)
		}
	}
	return c.started, c.ended
}

func (f *forecast) finish(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steps[id].over, f.steps[id].fraction = true, 1
}

// left is the number of seconds until the stages up to the given one end: compiling what they
// need at the measured speed and then the longest way through what does not compile, or the
// longest chain of steps, whichever is more.
func (f *forecast) left(stage int) float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var done, todo, after float64
	for _, s := range f.plan.Steps {
		if c := f.steps[s.ID]; s.Kind == plan.KindBuild && !s.Done {
			done += f.fraction(c) * cpu(s)
			if s.Stage <= stage {
				todo += (1 - f.fraction(c)) * cpu(s)
			}
		}
	}
	measured := f.buildTime.Seconds()
	if f.builds > 0 {
		measured += time.Since(f.buildSince).Seconds()
	}
	speed := (done + assumedShare*f.cores*assumedWeight) / (measured + assumedWeight)
	tails := f.tails(speed, stage)
	chain := 0.0
	for _, s := range f.plan.Steps {
		if c := f.steps[s.ID]; !c.over && s.Stage <= stage {
			chain = max(chain, tails[s.ID])
			if s.Kind == plan.KindBuild {
				after = max(after, tails[s.ID]-f.own(s, speed))
			}
		}
	}
	if todo == 0 {
		return chain
	}
	return max(chain, todo/speed+after)
}

// tails maps each step of the stages up to the given one to the seconds from its start (or from
// now, when it runs) to the end of the longest chain of them behind it. A build behind a build
// counts, too.
func (f *forecast) tails(speed float64, stage int) map[string]float64 {
	behind, tails := map[string]float64{}, map[string]float64{}
	for i := len(f.plan.Steps) - 1; i >= 0; i-- {
		s := f.plan.Steps[i]
		if s.Stage > stage {
			continue
		}
		tails[s.ID] = f.own(s, speed) + behind[s.ID]
		for _, need := range s.Waits() {
			behind[need] = max(behind[need], tails[s.ID])
		}
	}
	return tails
}

// own is what is left of one step, in seconds, when it has all the speed.
func (f *forecast) own(s plan.Step, speed float64) float64 {
	c := f.steps[s.ID]
	switch {
	case c.over:
		return 0
	case s.Kind == plan.KindBuild:
		return (1 - f.fraction(c)) * cpu(s) / speed
	case c.started.IsZero():
		return nominal[s.Kind]
	default:
		// A step that takes longer than it should is always "nearly there".
		return max(nominal[s.Kind]-time.Since(c.started).Seconds(), nominal[s.Kind]/10)
	}
}

// fraction of c that is done. A running build that tells nothing is assumed to get its
// share of the cores, or else a quiet build would look like a slow machine.
func (f *forecast) fraction(c *course) float64 {
	if c.over || c.told || c.started.IsZero() || c.step.Kind != plan.KindBuild || f.builds == 0 {
		return c.fraction
	}
	share := assumedShare * f.cores / float64(f.builds)
	return min(time.Since(c.started).Seconds()*share/cpu(c.step), unfinished)
}

func cpu(s plan.Step) float64 {
	if s.CPUSeconds > 0 {
		return s.CPUSeconds
	}
	return nominal[plan.KindBuild]
}
