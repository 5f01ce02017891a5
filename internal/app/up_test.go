package app

import (
	"testing"

	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/ui"
)

// When the nodes are Ready, a person is told what works from then on; other milestones are passed
// on as they are.
func TestNodesReadyIsSaid(t *testing.T) {
	var told []string
	clock := &phaseClock{flag: " --env demo", Sink: ui.SinkFunc(func(e ui.Event) { told = append(told, e.Message) })}
	emit := func(name string, state ui.State, message string) {
		clock.Emit(ui.Event{Type: ui.TypeMilestone, Step: name, State: state, Message: message})
	}
	emit(plan.MilestoneNodes, ui.StateRunning, "nodes Ready: expected in about 14 min")
	emit(plan.MilestoneNodes, ui.StateDone, "nodes Ready after 14 min 05 s; 14 builds go on")
	emit("core", ui.StateDone, "nats verified after 16 min 00 s")
	want := []string{
		"nodes Ready: expected in about 14 min",
		"the cluster is up, 'orrery kubectl --env demo' works: nodes Ready after 14 min 05 s; 14 builds go on",
		"nats verified after 16 min 00 s",
	}
	for i := range want {
		if told[i] != want[i] {
			t.Errorf("%q, want %q", told[i], want[i])
		}
	}
}

// What was compiled from is offered to be dropped when something was compiled.
func TestCompiledIsNoted(t *testing.T) {
	clock := &phaseClock{Sink: ui.Discard}
	clock.Emit(ui.Event{Type: ui.TypeStep, Step: "build/runc", Phase: plan.PhaseBuild, State: ui.StateCached})
	clock.Emit(ui.Event{Type: ui.TypeStep, Step: "image/runc", Phase: plan.PhaseBuild, State: ui.StateDone})
	if clock.compiled {
		t.Error("nothing was compiled")
	}
	clock.Emit(ui.Event{Type: ui.TypeStep, Step: "build/runc", Phase: plan.PhaseBuild, State: ui.StateDone})
	if !clock.compiled {
		t.Error("a program was compiled")
	}
}
