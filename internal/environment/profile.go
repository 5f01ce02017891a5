package environment

import (
	"fmt"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/profile"
	"github.com/orrery-dev/orrery/internal/ui"
)

// beside are the installed components that the profile does not have, nor what the environment
// had before: somebody deployed them by name, with what they need.
func (p *Platform) beside(installed map[string]kube.Inventory) []string {
	before := *p.Environment
	before.Spec = p.before
	had, _, err := before.selected(p.Catalog, before.Spec.Overlay, Selection{})
	beyond := slices.DeleteFunc(slices.Clone(p.Beyond), func(name string) bool { _, here := installed[name]; return !here })
	names := slices.DeleteFunc(slices.Clone(beyond), func(name string) bool {
		// When it cannot be told what was wanted before, nothing is taken away.
		return err == nil && slices.ContainsFunc(had, named(name))
	})
	if len(names) == 0 {
		return nil
	}
	needed, err := p.Catalog.Select(p.Overlay.Name, names)
	return slices.DeleteFunc(beyond, func(name string) bool { return err == nil && !slices.ContainsFunc(needed, named(name)) })
}

// LeavesOut says in a line what the profile leaves out and how to have it; "" when it has all.
func (p *Platform) LeavesOut() string {
	if len(p.Beyond) == 0 {
		return ""
	}
	needed := ""
	for _, name := range p.Beyond {
		if of := p.Catalog.Components[name].Profile; needed == "" || !profile.Has(needed, of) {
			needed = profile.Name(of)
		}
	}
	return fmt.Sprintf("profile %s leaves out %s: 'orrery deploy%s NAME' adds one, 'orrery up%s --profile %s' has them all",
		profile.Name(p.Spec.Profile), strings.Join(p.Beyond, ", "), p.Flag(), p.Flag(), needed)
}

// TellProfile tells what the profile leaves out, and what becomes of that where it is deployed.
func (p *Platform) TellProfile(planned Planned) {
	tell := func(typ ui.Type, format string, names []string) {
		if len(names) > 0 {
			p.sink.Emit(ui.Event{Type: typ, Phase: plan.PhaseDeploy, Message: fmt.Sprintf(format, profile.Name(p.Spec.Profile), strings.Join(names, ", "))})
		}
	}
	if line := p.LeavesOut(); line != "" {
		p.sink.Emit(ui.Event{Type: ui.TypeNotice, Phase: plan.PhaseDeploy, Message: line})
	}
	tell(ui.TypeNotice, "beside profile %s, deployed by name, and left as they are: %s", planned.Beside)
	var leaving []string
	for _, s := range planned.Steps {
		if s.Kind == plan.KindRemove && slices.Contains(p.Beyond, s.Subject) {
			leaving = append(leaving, s.Subject)
		}
	}
	tell(ui.TypeWarning, "leaving the cluster, because profile %s does not have them: %s", leaving)
}
