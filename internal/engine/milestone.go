package engine

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/ui"
)

// expect tells when the milestones will be there. Where nothing is compiled that is soon, and the
// steps tell it.
func (x *run) expect() {
	if _, todo := x.builds(); todo == 0 {
		return
	}
	for stage, m := range x.plan.Milestones {
		if x.reached(m) {
			continue
		}
		x.ahead = append(x.ahead, m)
		left := math.Round(x.forecast.left(stage))
		x.milestone(m, ui.Event{State: ui.StateRunning, ETA: left, Message: fmt.Sprintf("%s: expected in %s", m.Title, ui.About(left))})
	}
}

// tellReached tells the milestones that are there now.
func (x *run) tellReached() {
	x.ahead = slices.DeleteFunc(x.ahead, func(m plan.Milestone) bool {
		if !x.reached(m) {
			return false
		}
		took := time.Since(x.started).Seconds()
		message := fmt.Sprintf("%s after %s", m.Title, ui.Seconds(took))
		if out := x.leftOut(m); len(out) > 0 {
			message += ", without " + strings.Join(out, ", ") + " (skipped)"
		}
		switch done, total := x.builds(); total - done {
		case 0:
		case 1:
			message += "; 1 build goes on"
		default:
			message += fmt.Sprintf("; %d builds go on", total-done)
		}
		x.milestone(m, ui.Event{State: ui.StateDone, Seconds: took, Message: message})
		return true
	})
}

// next is the milestone ahead and when it will be there, in a line; "" when there is none.
func (x *run) next() string {
	if len(x.ahead) == 0 {
		return ""
	}
	m := x.ahead[0]
	stage := slices.IndexFunc(x.plan.Milestones, func(o plan.Milestone) bool { return o.Name == m.Name })
	return fmt.Sprintf("%s in %s", m.Title, ui.About(x.forecast.left(stage)))
}

func (x *run) milestone(m plan.Milestone, e ui.Event) {
	done, total := x.builds()
	e.Time, e.Type, e.Step, e.Done, e.Total, e.Unit = time.Now(), ui.TypeMilestone, m.Name, float64(done), float64(total), "builds"
	x.sink().Emit(e)
}

// builds counts those that there were to do, and those that have ended.
func (x *run) builds() (done, total int) {
	for _, s := range x.plan.Steps {
		if s.Kind == plan.KindBuild && s.Pending() {
			total++
			if _, ended := x.ended[s.ID]; ended {
				done++
			}
		}
	}
	return done, total
}

// reached: all that the milestone is said of is there, or was left out for a reason that is no
// failure, and not all of it was left out.
func (x *run) reached(m plan.Milestone) bool {
	there := false
	for _, id := range m.Needs {
		r, ended := x.ended[id]
		switch {
		case ended && (r.State == ui.StateDone || r.State == ui.StateCached):
			there = true
		case ended && r.State == ui.StateSkipped && r.Cause.Kind != plan.CauseFailed:
		default:
			return false
		}
	}
	return there
}

// leftOut are what of a milestone was skipped, by the names of components.
func (x *run) leftOut(m plan.Milestone) []string {
	var names []string
	for _, s := range x.plan.Steps {
		if slices.Contains(m.Needs, s.ID) && x.ended[s.ID].State == ui.StateSkipped {
			names = append(names, s.Subject)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
