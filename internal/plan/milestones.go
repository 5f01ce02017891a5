package plan

import (
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/profile"
)

// milestones are what a person waits for, in this order: the nodes, then the components of the
// smallest profile, then those of the next.
func milestones(in Input) []Milestone {
	all := []Milestone{{Name: MilestoneNodes, Title: "nodes Ready", Needs: []string{string(KindNodes)}}}
	done := "verified"
	if in.SkipVerify {
		done = "deployed"
	}
	for rank, name := range profile.All() {
		m := Milestone{Name: name}
		var deployed, verified []string
		for _, c := range in.Components {
			if profile.Rank(c.Profile) != rank {
				continue
			}
			deployed, m.Needs = append(deployed, c.Name), append(m.Needs, KindDeploy.ID(c.Name))
			if len(c.Checks()) > 0 && !in.SkipVerify {
				verified, m.Needs = append(verified, c.Name), append(m.Needs, KindVerify.ID(c.Name))
			}
		}
		if verified == nil {
			verified = deployed
		}
		if len(m.Needs) > 0 {
			m.Title = strings.Join(slices.Sorted(slices.Values(verified)), ", ") + " " + done
			all = append(all, m)
		}
	}
	if n := len(all) - 1; n > 0 {
		all[n].Title = "everything " + done
		if !in.SkipVerify { // whose checks stand on the base, which is of the smallest profile
			all[1].Needs = append(all[1].Needs, KindVerify.ID(VerifyCluster))
		}
	}
	return all
}

// setStages tells each step which milestone waits for it first.
func (p *Plan) setStages() {
	stage := map[string]int{}
	for n := len(p.Milestones) - 1; n >= 0; n-- {
		for _, id := range p.Milestones[n].Needs {
			stage[id] = n
		}
	}
	for i := len(p.Steps) - 1; i >= 0; i-- {
		s := &p.Steps[i]
		s.Stage = len(p.Milestones)
		if n, waits := stage[s.ID]; waits {
			s.Stage = n
		}
		for _, id := range s.Waits() {
			if n, waits := stage[id]; !waits || s.Stage < n {
				stage[id] = s.Stage
			}
		}
	}
}

// oneAfterAnother has the programs of a module wait for the first of them: side by side they would
// compile what they share twice, and their costs were measured with that compiled.
func (p *Plan) oneAfterAnother(modules map[string]string) {
	first := map[string]Step{}
	for _, s := range p.Steps {
		dir := modules[s.ID]
		if dir == "" || !s.Pending() {
			continue
		}
		before, ok := first[dir]
		if !ok || s.Stage < before.Stage || s.Stage == before.Stage && s.CPUSeconds > before.CPUSeconds {
			first[dir] = s
		}
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		if f, ok := first[modules[s.ID]]; ok && s.Pending() && f.ID != s.ID {
			s.After = append(s.After, f.ID)
		}
	}
}
