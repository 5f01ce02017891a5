package plan

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/spec"
)

// Input is everything that a plan depends on.
type Input struct {
	Spec spec.Environment
	// Components that were selected, with their needs (catalog.Select).
	Components   []catalog.Component
	Distribution catalog.Distribution
	// MirrorPrograms are what the mirror is made of beside [MirrorBinary].
	MirrorPrograms []string
	// Bootstrap names those of Components that all others stand on.
	Bootstrap []string

	// Cached: binary name → it is in the content cache.
	Cached map[string]bool
	// Pushed: image name → whether the mirror has it. An image whose digest nobody knows, so that
	// the mirror cannot be asked, is not named.
	Pushed map[string]bool
	// Unsigned: image name → the mirror has it, but not with the signature and documents that
	// are wanted. It is signed again even if nothing that is to be done needs it.
	Unsigned map[string]bool
	// Pulled: image name → it comes from a registry, so its binaries are not needed.
	Pulled map[string]bool
	// Missing: image name → why no source has it. What needs it is skipped.
	Missing map[string]Cause
	// Lacking: component name → why its files cannot be had. It is skipped.
	Lacking map[string]Cause
	// Mirror: images are pushed to a registry of the environment's own, by steps of the plan.
	// Without one they are in a registry already, or [Input.Missing].
	Mirror bool
	// Nodes: the environment makes its nodes. Without it, somebody else's cluster has to answer.
	Nodes bool
	// Phase of the environment as observed: absent, partial, stopped or running, and
	// running only with the distribution and the spec that are wanted.
	Phase string
	// NodesReady: every node was seen Ready.
	NodesReady bool
	// Current: component name → its rendered hash is in the cluster and it is ready.
	Current map[string]bool
	// Deferred: component name → some of its objects were left for when the cluster knows their
	// kinds, which whatever else is deployed may bring. So then it is applied again.
	Deferred map[string]bool
	// Installed components of the cluster; those that were not selected are removed.
	Installed []string
	// SkipVerify leaves the verify steps out.
	SkipVerify bool
}

// Up is the plan that brings the environment from what was observed to what is wanted.
func Up(in Input) (Plan, error) {
	b := builder{in: in, running: in.Phase == "running", known: map[string]any{}, modules: map[string]string{}}
	b.distribution()
	b.components()
	if !in.SkipVerify {
		b.verify()
	}
	if err := errors.Join(b.errs...); err != nil {
		return Plan{}, err
	}
	p := Plan{Steps: b.steps}
	if err := p.sort(); err != nil {
		return Plan{}, err
	}
	p.leaveOut()
	p.takeUpDeferred(in.Deferred)
	p.markUnneeded(in)
	p.Milestones = milestones(in)
	p.setStages()
	p.oneAfterAnother(b.modules)
	if err := p.sort(); err != nil {
		return Plan{}, err
	}
	return p, p.Validate()
}

type builder struct {
	in      Input
	running bool
	steps   []Step
	known   map[string]any    // step ID → declaration, to tell the same thing twice from two things of one name
	modules map[string]string // ID of a build → folder of its module
	errs    []error
}

func (b *builder) distribution() {
	d := b.in.Distribution
	all := d.Files()
	var builds, prepare []string
	for _, bin := range all {
		id := b.build(bin)
		builds = append(builds, id)
		if bin.Name == MirrorBinary || slices.Contains(b.in.MirrorPrograms, bin.Name) {
			prepare = append(prepare, id)
		}
	}
	needs := builds
	if b.in.Mirror {
		b.add(Step{ID: "prepare", Kind: KindPrepare, Phase: PhaseCluster, Title: "Registry mirror", Needs: prepare, Done: b.running})
		needs = append([]string{"prepare"}, builds...)
	}
	title := fmt.Sprintf("Control plane, %s", plural(b.in.Spec.Servers, "server"))
	if n := b.in.Spec.AgentCount(); n > 0 {
		title += fmt.Sprintf(" and %s", plural(n, "agent"))
	}
	if !b.in.Nodes {
		title = "The cluster answers"
	}
	b.add(Step{ID: "cluster", Kind: KindCluster, Phase: PhaseCluster, Title: title, Needs: needs, Done: b.running})
	ready := []string{"cluster"}
	for _, c := range b.in.Components {
		if c.When.Agents == catalog.AgentPods { // without them no node becomes Ready
			ready = append(ready, "deploy/"+c.Name)
		}
	}
	b.add(Step{ID: "nodes", Kind: KindNodes, Phase: PhaseCluster, Title: "Nodes Ready", Needs: ready, Done: b.running && b.in.NodesReady})
	if d.Sandbox.Name != "" {
		b.image(d.Sandbox)
	}
}

func (b *builder) components() {
	names := map[string]bool{}
	for _, c := range b.in.Components {
		names[c.Name] = true
	}
	for _, name := range b.in.Installed {
		if !names[name] {
			b.add(Step{ID: "remove/" + name, Kind: KindRemove, Subject: name, Phase: PhaseDeploy, Title: "Remove " + name, Needs: []string{"cluster"}})
		}
	}
	for _, c := range b.in.Components {
		needs := []string{"cluster"}
		if b.in.Distribution.Sandbox.Name != "" {
			needs = append(needs, "image/"+b.in.Distribution.Sandbox.Name) // a pod without it does not start
		}
		for _, i := range c.Images {
			needs = append(needs, b.image(i))
		}
		for _, n := range c.Needs {
			if !names[n] {
				b.errs = append(b.errs, fmt.Errorf("plan: component %s needs %s, which was not selected", c.Name, n))
				continue
			}
			needs = append(needs, "deploy/"+n)
		}
		b.add(Step{ID: "deploy/" + c.Name, Kind: KindDeploy, Subject: c.Name, Phase: PhaseDeploy,
			Title: "Deploy " + c.Name, Needs: needs,
			Done: b.running && b.in.Current[c.Name], Skip: b.in.Lacking[c.Name]})
	}
}

func (b *builder) verify() {
	// The cluster's own checks use what all components stand on, such as DNS, and what the
	// network has in the cluster; they wait for nothing else.
	var base []string
	for _, c := range b.in.Components {
		if slices.Contains(b.in.Bootstrap, c.Name) || c.When.Network != "" {
			base = append(base, "deploy/"+c.Name)
		}
		if len(c.Checks()) > 0 {
			b.add(Step{ID: "verify/" + c.Name, Kind: KindVerify, Subject: c.Name, Phase: PhaseVerify, Title: "Verify " + c.Name, Needs: []string{"nodes", "deploy/" + c.Name}})
		}
	}
	b.add(Step{ID: "verify/" + VerifyCluster, Kind: KindVerify, Subject: VerifyCluster, Phase: PhaseVerify,
		Title: "Verify the cluster", Needs: []string{"nodes"}, After: compact(base)})
}

func (b *builder) build(bin catalog.Binary) string {
	id := "build/" + bin.Name
	if b.same(id, bin) {
		return id
	}
	if !bin.Archive() {
		b.modules[id] = bin.Dir
	}
	title := "Build " + bin.Name
	if bin.Version != "" {
		title += " " + bin.Version
	}
	b.add(Step{ID: id, Kind: KindBuild, Subject: bin.Name, Phase: PhaseBuild, Title: title,
		CPUSeconds: bin.CPUSeconds, MemoryMiB: bin.MemoryMiB, Done: b.in.Cached[bin.Name]})
	return id
}

func (b *builder) image(i catalog.Image) string {
	id := "image/" + i.Name
	if b.same(id, i) {
		return id
	}
	if !b.in.Mirror { // it is in the registry, or what needs it is left out
		missing := b.in.Missing[i.Name]
		b.add(Step{ID: id, Kind: KindImage, Subject: i.Name, Phase: PhaseBuild,
			Title: strings.TrimSpace("Image " + i.Name + " " + i.Version), Done: missing.IsZero(), Skip: missing})
		return id
	}
	needs := []string{"prepare"}
	title := "Image "
	switch {
	case !b.in.Missing[i.Name].IsZero():
	case b.in.Pulled[i.Name]:
		title = "Pull image "
	default:
		for _, bin := range i.Binaries {
			needs = append(needs, b.build(bin))
		}
	}
	b.add(Step{ID: id, Kind: KindImage, Subject: i.Name, Phase: PhaseBuild,
		Title: strings.TrimSpace(title + i.Name + " " + i.Version), Needs: needs,
		Done: b.running && b.in.Pushed[i.Name] && !b.in.Unsigned[i.Name], Skip: b.in.Missing[i.Name]})
	return id
}

// same says whether id was declared before; another declaration of that name is an error.
func (b *builder) same(id string, declaration any) bool {
	before, again := b.known[id]
	if again && !reflect.DeepEqual(before, declaration) {
		b.errs = append(b.errs, fmt.Errorf("plan: two different declarations of %s; give one of them another name", id))
	}
	b.known[id] = declaration
	return again
}

func (b *builder) add(s Step) {
	s.Needs = compact(s.Needs)
	b.steps = append(b.steps, s)
}

// sort puts each step behind what it waits for, else keeps the order.
func (p *Plan) sort() error {
	const visiting, visited = 1, 2
	at, state := map[string]int{}, map[string]int{}
	for i, s := range p.Steps {
		if _, again := at[s.ID]; again {
			return fmt.Errorf("plan: step %s stands twice", s.ID)
		}
		at[s.ID] = i
	}
	sorted := make([]Step, 0, len(p.Steps))
	var path []string
	var visit func(id string) error
	visit = func(id string) error {
		path = append(path, id)
		defer func() { path = path[:len(path)-1] }()
		i, ok := at[id]
		switch {
		case !ok:
			return fmt.Errorf("plan: step %s waits for %s, which is not in the plan", path[len(path)-2], id)
		case state[id] == visited:
			return nil
		case state[id] == visiting:
			return fmt.Errorf("plan: cycle: %s", strings.Join(path[slices.Index(path, id):], " → "))
		}
		state[id] = visiting
		for _, need := range p.Steps[i].Waits() {
			if err := visit(need); err != nil {
				return err
			}
		}
		state[id] = visited
		sorted = append(sorted, p.Steps[i])
		return nil
	}
	for _, s := range p.Steps {
		if err := visit(s.ID); err != nil {
			return err
		}
	}
	p.Steps = sorted
	return nil
}

// leaveOut skips what needs something that is skipped. A step that is done needs nothing
// any more: what runs goes on running when its image cannot be had again.
func (p *Plan) leaveOut() {
	skipped := map[string]Step{}
	for i := range p.Steps {
		s := &p.Steps[i]
		if s.Done {
			s.Skip = Cause{}
			continue
		}
		for _, id := range s.Needs {
			need, ok := skipped[id]
			switch {
			case !ok || !s.Skip.IsZero():
			case need.Kind == KindDeploy && need.Subject != s.Subject:
				s.Skip = need.Skip.For(need.Subject)
			default:
				s.Skip = need.Skip
			}
		}
		if !s.Skip.IsZero() {
			skipped[s.ID] = *s
		}
	}
}

// takeUpDeferred applies components again that wait for kinds, if anything else is deployed.
func (p *Plan) takeUpDeferred(deferred map[string]bool) {
	pending := func(s Step) bool { return s.Kind == KindDeploy && !s.Done && s.Skip.IsZero() }
	if !slices.ContainsFunc(p.Steps, pending) {
		return
	}
	skipped := map[string]bool{}
	for i := range p.Steps {
		s := &p.Steps[i]
		skipped[s.ID] = !s.Skip.IsZero()
		if s.Kind == KindDeploy && deferred[s.Subject] && !slices.ContainsFunc(s.Needs, func(id string) bool { return skipped[id] }) {
			s.Done = false
		}
	}
}

// markUnneeded marks builds and images Done that nothing pending waits for: what runs already
// needs no cache, which is safe to delete. Not so images that are to be signed, and those that
// the mirror lost: a pod of what is deployed could not start anew. The sandbox of pods is for
// those too that nobody here deploys.
func (p *Plan) markUnneeded(in Input) {
	sandbox := KindImage.ID(in.Distribution.Sandbox.Name)
	wanted, used := map[string]bool{sandbox: in.Phase != "running"}, map[string]bool{sandbox: true}
	for i := len(p.Steps) - 1; i >= 0; i-- {
		s := &p.Steps[i]
		switch {
		case s.Kind != KindBuild && s.Kind != KindImage, wanted[s.ID], !s.Skip.IsZero():
		case s.Kind == KindImage && (in.Unsigned[s.Subject] || used[s.ID] && in.lost(s.Subject)):
		default:
			s.Done = true
		}
		for _, need := range s.Waits() {
			if !s.Done && s.Skip.IsZero() {
				wanted[need] = true
			}
			if s.Kind == KindDeploy && s.Skip.IsZero() {
				used[need] = true
			}
		}
	}
}

// lost: the mirror was asked for an image and does not have it.
func (in Input) lost(image string) bool {
	has, asked := in.Pushed[image]
	return asked && !has
}

func compact(ids []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool {
		again := seen[id]
		seen[id] = true
		return again
	})
}
