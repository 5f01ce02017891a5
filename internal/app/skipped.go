package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/engine"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// checkRequired refuses names that mean nothing here.
func (p *platform) checkRequired() error {
	for _, name := range p.require {
		_, component := p.component(name)
		if _, img := p.images[name]; !component && !img {
			return usagef("--require %s: neither a component of this environment (%s) nor one of its images (%s)",
				name, strings.Join(p.componentNames(), ", "), strings.Join(slices.Sorted(maps.Keys(p.images)), ", "))
		}
	}
	return nil
}

// refuseSkips is the error when the plan leaves out what is required, and when it would
// compile what is not to be compiled.
func (p *platform) refuseSkips(pl plan.Plan) error {
	var errs []error
	for _, name := range p.require {
		for _, id := range []string{"deploy/" + name, "image/" + name} {
			if s, ok := pl.Step(id); ok && s.Skip != "" {
				errs = append(errs, fmt.Errorf("%s is required and would be skipped: %s", name, s.Skip))
				break
			}
		}
	}
	if builds := p.toBuild(pl); p.builder != nil && len(builds) > 0 && !slices.Contains(p.spec.Images.Sources, spec.SourceSource) {
		var names []string
		for _, b := range builds {
			names = append(names, b.Name)
		}
		errs = append(errs, refusedError{fmt.Errorf("%s would have to be compiled, and images.sources of orrery.yaml does not name source: name it, or import a bundle", strings.Join(names, ", "))})
	}
	return errors.Join(errs...)
}

// noteSkipped keeps which of the plan's components were left out, and tells what was not
// verified for that. The error names what is required.
func (p *platform) noteSkipped(pl plan.Plan, result engine.Result) error {
	p.mu.Lock()
	skipped := maps.Clone(p.skipped)
	p.mu.Unlock()
	if skipped == nil {
		skipped = map[string]string{}
	}
	var errs []error
	for _, s := range pl.Steps {
		r, ran := result.Steps[s.ID]
		why := r.Reason
		if _, root, ok := strings.Cut(why, "which was skipped: "); ok {
			why = root
		}
		out := ran && r.State == ui.StateSkipped && !strings.HasSuffix(why, "which failed")
		switch s.Kind {
		case plan.KindDeploy:
			delete(skipped, s.Subject)
			if out {
				skipped[s.Subject] = why
			}
		case plan.KindVerify:
			if c, ok := p.component(s.Subject); ok && out && skipped[c.Name] != "" {
				for _, condition := range skippedChecks(c.Name, c.Checks(), skipped[c.Name]) {
					p.tally.add(runCheck(context.Background(), condition))
				}
			}
		case plan.KindImage:
		default:
			continue
		}
		if out && s.Kind != plan.KindVerify && slices.Contains(p.require, s.Subject) {
			errs = append(errs, fmt.Errorf("%s is required and was skipped: %s", s.Subject, why))
		}
	}
	return errors.Join(append(errs, p.keepSkipped(skipped))...)
}

// keepSkipped writes what is left out into the state, for later verbs.
func (p *platform) keepSkipped(skipped map[string]string) error {
	if p.prune { // the whole of what is wanted is in the plan
		maps.DeleteFunc(skipped, func(name, _ string) bool { _, wanted := p.component(name); return !wanted })
	}
	if maps.Equal(skipped, p.skipped) {
		return nil
	}
	p.mu.Lock()
	p.skipped = skipped
	p.mu.Unlock()
	return p.save()
}

// warnSkipped tells what a plan leaves out.
func (p *platform) warnSkipped(pl plan.Plan) {
	skipped := pl.Skipped()
	for _, name := range slices.Sorted(maps.Keys(skipped)) {
		p.sink.Emit(ui.Event{Type: ui.TypeWarning, Phase: "deploy", Message: "Skipped: " + name + ": " + skipped[name]})
	}
}

// lacking: an image that all components which have it were left out for.
func (p *platform) lacking(name string) bool {
	of := slices.DeleteFunc(slices.Clone(p.components), func(c catalog.Component) bool {
		return !slices.ContainsFunc(c.Images, func(i catalog.Image) bool { return i.Name == name })
	})
	return len(of) > 0 && !slices.ContainsFunc(of, func(c catalog.Component) bool { return p.skipped[c.Name] == "" })
}

// skippedChecks are the checks of a component that is not there: none of them can pass.
func skippedChecks(component string, checks []string, why string) []check.Condition {
	if len(checks) == 0 {
		checks = []string{"deployed"}
	}
	var conditions []check.Condition
	for _, name := range checks {
		conditions = append(conditions, check.Condition{
			Component: component, Name: name,
			Probe: func(context.Context) check.Result { return check.Skip("%s", why) },
		})
	}
	return conditions
}

// skippedStates adds the components that are left out to those that the cluster has.
func skippedStates(states []componentStatus, skipped, namespaces map[string]string) []componentStatus {
	for _, name := range slices.Sorted(maps.Keys(skipped)) {
		i := slices.IndexFunc(states, func(c componentStatus) bool { return c.Name == name })
		if i < 0 {
			states = append(states, componentStatus{Name: name, Namespace: namespaces[name], State: "skipped", Reason: skipped[name]})
		} else if states[i].Reason == "" {
			states[i].Reason = "as before, its new version is skipped: " + skipped[name]
		}
	}
	slices.SortFunc(states, func(a, b componentStatus) int { return strings.Compare(a.Name, b.Name) })
	return states
}
