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

// registryBinary is the binary of the mirror: it is all that [KindPrepare] waits for.
const registryBinary = "registry"

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
	// CPUSeconds and MemoryMiB are what a cold build was measured to take; 0 when not known
	// or not a build.
	CPUSeconds float64
	MemoryMiB  int
	// Done: observed, there is nothing to do.
	Done bool
	// Skip is why the step cannot be done here and is left out, such as an image that cannot
	// be had; empty when it can. What needs it is left out too, with the same reason.
	Skip string `json:",omitempty"`
}

// Waits lists Needs and After.
func (s Step) Waits() []string { return slices.Concat(s.Needs, s.After) }

// Plan is a list of steps in which every step stands behind what it waits for.
type Plan struct{ Steps []Step }

// Pending is the number of steps that have something to do.
func (p Plan) Pending() int {
	n := 0
	for _, s := range p.Steps {
		if !s.Done && s.Skip == "" {
			n++
		}
	}
	return n
}

// Skipped are the components that are left out, with the reason.
func (p Plan) Skipped() map[string]string {
	skipped := map[string]string{}
	for _, s := range p.Steps {
		if s.Kind == KindDeploy && s.Skip != "" {
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
func (p Plan) CPUSeconds() float64 {
	sum := 0.0
	for _, s := range p.Steps {
		if !s.Done && s.Skip == "" {
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
