package plan

import (
	"errors"
	"fmt"
	"slices"
)

// Kind says which action runs a step.
type Kind string

const (
	KindBuild   Kind = "build"   // a binary, of the node distribution or of an image
	KindImage   Kind = "image"   // an image, made and pushed to the mirror
	KindPrepare Kind = "prepare" // the mirror that images are pushed to
	KindCluster Kind = "cluster" // the Kubernetes API answers
	KindNodes   Kind = "nodes"   // every node is Ready
	KindDeploy  Kind = "deploy"  // a component is applied and ready
	KindRemove  Kind = "remove"  // a component that is no longer wanted leaves the cluster
	KindVerify  Kind = "verify"  // a component's smoke checks
)

// Phases of a plan, in the order in which they end.
const (
	PhaseBuild   = "build"
	PhaseCluster = "cluster"
	PhaseDeploy  = "deploy"
	PhaseVerify  = "verify"
)

// MirrorBinary is the program of the mirror: it is all that [KindPrepare] waits for.
const MirrorBinary = "registry"

// ID is that of the step of this kind about a subject.
func (k Kind) ID(subject string) string { return string(k) + "/" + subject }

// VerifyCluster is the subject of the checks that belong to no component.
const VerifyCluster = "cluster"

// Step is one thing to do.
type Step struct {
	ID      string // "<kind>/<subject>", or "<kind>" for what there is one of
	Kind    Kind
	Subject string // binary, image or component name; empty for prepare, cluster and nodes
	// Needs are the IDs that must have succeeded. A step whose need was skipped is skipped too.
	Needs []string
	// After are the IDs that are waited for whether they succeed or are skipped.
	After []string
	Phase string
	Title string // one line for a person
	// Stage is the index of the first milestone that waits for the step, be it for what waits
	// for the step; the number of milestones when none does. A lower stage goes first.
	Stage int
	// CPUSeconds and MemoryMiB are what a cold build was measured to take; 0 when not known
	// or not a build.
	CPUSeconds float64
	MemoryMiB  int
	// Done: observed, there is nothing to do.
	Done bool
	// Skip is why the step cannot be done here and is left out, such as an image that cannot
	// be had; zero when it can. What needs it is left out too, with the same root.
	Skip Cause `json:",omitzero"`
}

// Waits lists Needs and After.
func (s Step) Waits() []string { return slices.Concat(s.Needs, s.After) }

// Pending: there is something to do, and it can be done.
func (s Step) Pending() bool { return !s.Done && s.Skip.IsZero() }

// Milestone is what a person waits for on the way to the end of a plan.
type Milestone struct {
	Name  string   // [MilestoneNodes], or the profile whose components it is about
	Title string   // such as "nodes Ready", to be followed by a time
	Needs []string // IDs of the steps after which it is reached
}

// MilestoneNodes is the name of the first milestone.
const MilestoneNodes = "nodes"

// Plan is a list of steps in which every step stands behind what it waits for.
type Plan struct {
	Steps []Step
	// Milestones in the order in which they are to be reached.
	Milestones []Milestone
}

// Pending is the number of steps that have something to do.
func (p Plan) Pending() int {
	n := 0
	for _, s := range p.Steps {
		if s.Pending() {
			n++
		}
	}
	return n
}

// Changes are the pending steps that change something: verification does not.
func (p Plan) Changes() []Step {
	return slices.DeleteFunc(slices.Clone(p.Steps), func(s Step) bool { return !s.Pending() || s.Kind == KindVerify })
}

// Skipped are the components that are left out, with the reason.
func (p Plan) Skipped() map[string]Cause {
	skipped := map[string]Cause{}
	for _, s := range p.Steps {
		if s.Kind == KindDeploy && !s.Skip.IsZero() {
			skipped[s.Subject] = s.Skip
		}
	}
	return skipped
}

// Step finds a step by its ID.
func (p Plan) Step(id string) (Step, bool) {
	if i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.ID == id }); i >= 0 {
		return p.Steps[i], true
	}
	return Step{}, false
}

// CPUSeconds is the sum over the pending builds, of those that are known.
func (p Plan) CPUSeconds() float64 { return p.secondsUntil(len(p.Milestones)) }

// secondsUntil is CPUSeconds of the stages up to the given one.
func (p Plan) secondsUntil(stage int) float64 {
	sum := 0.0
	for _, s := range p.Steps {
		if s.Pending() && s.Stage <= stage {
			sum += s.CPUSeconds
		}
	}
	return sum
}

// Validate checks that IDs are unique, that what is waited for exists and stands before
// what waits for it (so there is no cycle).
func (p Plan) Validate() error {
	at := map[string]int{}
	var errs []error
	for i, s := range p.Steps {
		if first, again := at[s.ID]; again {
			errs = append(errs, fmt.Errorf("plan: step %s stands at %d and at %d", s.ID, first, i))
			continue
		}
		at[s.ID] = i
	}
	for i, s := range p.Steps {
		for _, need := range s.Waits() {
			switch j, ok := at[need]; {
			case !ok:
				errs = append(errs, fmt.Errorf("plan: step %s waits for %s, which is not in the plan", s.ID, need))
			case j >= i:
				errs = append(errs, fmt.Errorf("plan: step %s waits for %s, which stands behind it", s.ID, need))
			}
		}
	}
	return errors.Join(errs...)
}
