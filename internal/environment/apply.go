package environment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/engine"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Apply checks the lock and the host, keeps the state and runs the plan. stands: the platform
// is deployed, whatever its verification says. install: packages of the operating system may be
// installed.
func (p *Platform) Apply(ctx context.Context, planned Planned, install bool) (stands bool, err error) {
	if err := p.RefuseDrift(ctx); err != nil {
		return false, err
	}
	if err := installPackages(ctx, MissingPackages(ctx, p.HostPrograms, p.ToBuild(planned.Plan)), install, p.sink); err != nil {
		return false, err
	}
	if planned.Observation.Phase != driver.PhaseRunning {
		if err := p.Preflight(ctx); err != nil {
			return false, err
		}
	}
	if err := p.journal.Begin(driver.Effect{Kind: directoryEffect, ID: p.StateDir}); err != nil {
		return false, err
	}
	if err := p.save(); err != nil {
		return false, err
	}
	return p.Run(ctx, planned.Plan)
}

// Run executes a plan on an environment that exists. deployed: all but verification came to
// its end, or was left out.
func (p *Platform) Run(ctx context.Context, pl plan.Plan) (deployed bool, err error) {
	p.mu.Lock()
	p.leftOut = pl.Skipped()
	p.mu.Unlock()
	result, err := p.runner.Run(ctx, pl)
	p.tellDeferred()
	for _, s := range pl.Steps {
		state := result.Steps[s.ID].State
		if !s.Done && s.Kind != plan.KindVerify && state != ui.StateDone && state != ui.StateCached && state != ui.StateSkipped {
			return false, err
		}
	}
	return true, errors.Join(err, p.noteSkipped(ctx, pl, result))
}

// noteSkipped keeps which of the plan's components were left out, and adds the checks that
// were not made for that. The error names what is required.
func (p *Platform) noteSkipped(ctx context.Context, pl plan.Plan, result engine.Result) error {
	skipped := maps.Clone(p.Skipped)
	if skipped == nil {
		skipped = map[string]plan.Cause{}
	}
	var errs []error
	verifies := slices.ContainsFunc(pl.Steps, func(s plan.Step) bool { return s.Kind == plan.KindVerify })
	for _, s := range pl.Steps {
		r, ran := result.Steps[s.ID]
		cause := r.Cause
		cause.Via = "" // a component is left out for the root
		out := ran && r.State == ui.StateSkipped && cause.Kind != plan.CauseFailed
		switch s.Kind {
		case plan.KindDeploy:
			delete(skipped, s.Subject)
			if !out {
				break
			}
			skipped[s.Subject] = cause
			if c, ok := p.Component(s.Subject); ok && verifies {
				for _, condition := range skippedChecks(c.Name, c.Checks(), cause) {
					p.addResults(RunCheck(ctx, condition))
				}
			}
		case plan.KindImage:
		default:
			continue
		}
		if out && slices.Contains(p.selection.Require, s.Subject) {
			errs = append(errs, fmt.Errorf("%s is required and was skipped: %s", s.Subject, cause))
		}
	}
	return errors.Join(append(errs, p.keepSkipped(skipped))...)
}

// KeepSkipped writes into the state what a plan leaves out of an environment that is up to
// date.
func (p *Platform) KeepSkipped(pl plan.Plan) error { return p.keepSkipped(pl.Skipped()) }

// keepSkipped writes what is left out into the state, for later verbs.
func (p *Platform) keepSkipped(skipped map[string]plan.Cause) error {
	if p.selection.Prune { // the whole of what is wanted is in the plan
		maps.DeleteFunc(skipped, func(name string, _ plan.Cause) bool { _, wanted := p.Component(name); return !wanted })
	}
	if maps.Equal(skipped, p.Skipped) && p.Spec.Profile == p.before.Profile {
		return nil
	}
	p.Skipped = skipped
	return p.save()
}
