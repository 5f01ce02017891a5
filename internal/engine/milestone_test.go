package engine

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/ui"
)

// journey compiles a node, then NATS, then the rest, one at a time, in minutes.
func journey() plan.Plan {
	staged := func(stage int, cpu float64, s plan.Step) plan.Step {
		s.Stage, s.CPUSeconds = stage, cpu
		return s
	}
	return plan.Plan{
		Steps: []plan.Step{
			staged(2, 600, step("build/loki")), staged(2, 300, step("build/tempo")), staged(1, 120, step("build/nats")), staged(0, 240, step("build/kubernetes")),
			staged(0, 0, step("nodes", "build/kubernetes")), staged(1, 0, step("deploy/nats", "nodes", "build/nats")),
			staged(2, 0, step("deploy/loki", "nodes", "build/loki")), staged(2, 0, step("deploy/grafana", "nodes", "build/tempo")),
		},
		Milestones: []plan.Milestone{
			{Name: "nodes", Title: "nodes Ready", Needs: []string{"nodes"}},
			{Name: "core", Title: "nats deployed", Needs: []string{"deploy/nats"}},
			{Name: "platform", Title: "everything deployed", Needs: []string{"deploy/loki", "deploy/grafana"}},
		},
	}
}

func travel(t *testing.T, p plan.Plan, fails string) []string {
	var told []string
	synctest.Test(t, func(t *testing.T) {
		seconds := map[string]float64{"nodes": 5, "deploy/nats": 10}
		for _, s := range p.Steps {
			if s.Kind == plan.KindBuild {
				seconds[s.ID] = s.CPUSeconds
			}
		}
		do := func(ctx context.Context, s plan.Step, report func(string, float64, float64)) (ui.State, error) {
			if s.ID == fails {
				return "", errors.New("broken")
			}
			if s.ID == "deploy/grafana" {
				return Skip(plan.Cause{Kind: plan.CauseUnreachable, Root: "no registry"})
			}
			return sleeper(seconds)(ctx, s, report)
		}
		var rec recorder
		r := &Runner{Sink: &rec, Cores: 1, Actions: map[plan.Kind]Action{"build": do, "nodes": do, "deploy": do}, KeepGoing: map[plan.Kind]bool{"build": true, "deploy": true}}
		if _, err := r.Run(t.Context(), p); (err != nil) != (fails != "") {
			t.Fatal(err)
		}
		for _, e := range rec.events {
			if e.Type == ui.TypeMilestone {
				told = append(told, e.Step+" "+string(e.State)+": "+e.Message)
			}
		}
	})
	return told
}

// What a person waits for is told at the start and when it is there, with what goes on.
func TestMilestones(t *testing.T) {
	p := journey()
	want := []string{
		"nodes running: nodes Ready: expected in about 5 min", // at the speed that is assumed
		"core running: nats deployed: expected in about 8 min",
		"platform running: everything deployed: expected in about 26 min",
		"nodes done: nodes Ready after 4 min 05 s; 3 builds go on",
		"core done: nats deployed after 6 min 10 s; 2 builds go on",
		"platform done: everything deployed after 21 min 00 s, without grafana (skipped)",
	}
	if d := cmp.Diff(want, travel(t, p, "")); d != "" {
		t.Error(d)
	}
	// What is there already is not waited for; without builds, the steps tell enough.
	for i := range p.Steps {
		p.Steps[i].Done = p.Steps[i].Stage == 0
	}
	if told := travel(t, p, ""); len(told) != 4 || strings.Contains(strings.Join(told, "\n"), "nodes Ready") {
		t.Errorf("nodes that are Ready: %q", told)
	}
	for i := range p.Steps {
		p.Steps[i].Done = p.Steps[i].Kind == plan.KindBuild
	}
	if told := travel(t, p, ""); len(told) > 0 {
		t.Errorf("without a build: %q", told)
	}
}

// A milestone of which something failed, or everything was left out, is not reached.
func TestMilestonesThatAreNot(t *testing.T) {
	for _, fails := range []string{"build/loki", "deploy/loki"} {
		told := strings.Join(travel(t, journey(), fails), "\n")
		if !strings.Contains(told, "core done") || strings.Contains(told, "platform done") {
			t.Errorf("%s failed: %s", fails, told)
		}
	}
	p := journey()
	p.Milestones[2].Needs = []string{"deploy/grafana"}
	if told := strings.Join(travel(t, p, ""), "\n"); strings.Contains(told, "platform done") {
		t.Errorf("nothing of it is there: %s", told)
	}
}

// The next milestone stands beside the progress of the whole.
func TestOverallNamesTheNextMilestone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := journey()
		seconds := map[string]float64{}
		for _, s := range p.Steps {
			seconds[s.ID] = s.CPUSeconds
		}
		a := sleeper(seconds)
		var rec recorder
		if _, err := (&Runner{Sink: &rec, Cores: 1, Actions: map[plan.Kind]Action{"build": a, "nodes": a, "deploy": a}}).Run(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range rec.events {
			if e.Type == ui.TypeProgress && e.Step == "" {
				name, _, _ := strings.Cut(e.Message, " in ")
				if len(names) == 0 || names[len(names)-1] != name {
					names = append(names, name)
				}
			}
		}
		if d := cmp.Diff([]string{"nodes Ready", "nats deployed", "everything deployed", ""}, names); d != "" {
			t.Error(d)
		}
	})
}
