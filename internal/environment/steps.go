package environment

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/engine"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

// reporter is how an action tells how far it is.
type reporter = func(message string, done, total float64)

// actions binds the kinds of steps to what does them.
func (p *Platform) actions() map[plan.Kind]engine.Action {
	return map[plan.Kind]engine.Action{
		plan.KindBuild:   p.build,
		plan.KindImage:   p.image,
		plan.KindPrepare: p.prepare,
		plan.KindCluster: p.startCluster,
		plan.KindNodes:   p.drive(driver.Driver.Ready),
		plan.KindDeploy:  p.deploy,
		plan.KindRemove:  p.undeploy,
		plan.KindVerify:  p.verify,
	}
}

func (p *Platform) build(ctx context.Context, s plan.Step, _ reporter) (ui.State, error) {
	bin, ok := p.Parts.Binaries[s.Subject]
	if !ok {
		return ui.StateFailed, fmt.Errorf("no binary %q in the catalogue", s.Subject)
	}
	bin.Stage = s.Stage
	cached, err := p.Supply.Cached(ctx, bin)
	if err != nil {
		return ui.StateFailed, err
	}
	if _, err := p.Supply.Binary(ctx, bin); err != nil {
		if clang := supply.HostCompiler(ctx, bin); clang != "" {
			p.warnStep(s.ID, plan.PhaseBuild,
				"this host's own %s is used in place of %s, which cannot be had: %v", clang, bin.Name, err)
			return ui.StateDone, nil
		}
		return ui.StateFailed, err
	}
	if cached { // compared before the first step
		return ui.StateCached, nil
	}
	return stateOf(p.Supply.RefuseDrift(ctx, map[string]catalog.Binary{bin.Name: bin}, nil))
}

// stateOf is how a step ends that did something.
func stateOf(err error) (ui.State, error) {
	if err != nil {
		return ui.StateFailed, err
	}
	return ui.StateDone, nil
}

// prepare needs only the mirror's programs, so that images are pushed while the rest of
// the node distribution still compiles.
func (p *Platform) prepare(ctx context.Context, s plan.Step, r reporter) (ui.State, error) {
	if p.Kind.Distribution {
		dist, err := p.Dist()
		if err != nil {
			return ui.StateFailed, err
		}
		for _, b := range p.Catalog.Distribution.Binaries {
			if b.Name != plan.MirrorBinary && !slices.Contains(p.Kind.MirrorPrograms, b.Name) {
				continue
			}
			if _, err := p.install(ctx, dist, b); err != nil {
				return ui.StateFailed, err
			}
		}
	}
	return p.drive(driver.Driver.Prepare)(ctx, s, r)
}

// startCluster lays out the node distribution, verifies it and starts the nodes from it.
func (p *Platform) startCluster(ctx context.Context, s plan.Step, r reporter) (ui.State, error) {
	if p.Kind.Distribution {
		dist, err := p.Dist()
		if err != nil {
			return ui.StateFailed, err
		}
		var g errgroup.Group
		for _, b := range p.Catalog.Distribution.Programs() {
			g.Go(func() error {
				_, err := p.install(ctx, dist, b)
				return err
			})
		}
		g.Go(func() error { return p.installArchives(ctx, dist) })
		if err := g.Wait(); err != nil {
			return ui.StateFailed, err
		}
	}
	return p.drive(driver.Driver.Ensure)(ctx, s, r)
}

func (p *Platform) drive(do func(driver.Driver, context.Context) error) engine.Action {
	return func(ctx context.Context, _ plan.Step, _ reporter) (ui.State, error) {
		return stateOf(do(p.Driver, ctx))
	}
}

func (p *Platform) image(ctx context.Context, s plan.Step, _ reporter) (ui.State, error) {
	img, ok := p.Parts.Images[s.Subject]
	if !ok {
		return ui.StateFailed, fmt.Errorf("no image %q in the catalogue", s.Subject)
	}
	built, err := p.Supply.Image(ctx, img)
	if errors.Is(err, image.ErrNotReachable) {
		return engine.Skip(supply.Unreachable(img.Name, err)) // it answered when the plan was made
	}
	if err != nil {
		return ui.StateFailed, err
	}
	parts := map[string]catalog.Binary{}
	for _, bin := range img.Binaries {
		parts[bin.Name] = bin
	}
	if err := p.Supply.RefuseDrift(ctx, parts, map[string]catalog.Image{img.Name: img}); err != nil {
		return ui.StateFailed, err
	}
	mirror, err := p.Mirror()
	if err != nil {
		return ui.StateFailed, err
	}
	if err := image.Push(ctx, mirror, built); err != nil {
		return ui.StateFailed, err
	}
	if err := p.admit(ctx, mirror, img, built); err != nil {
		return ui.StateFailed, err
	}
	p.note(built)
	return ui.StateDone, nil
}

func (p *Platform) deploy(ctx context.Context, s plan.Step, report reporter) (ui.State, error) {
	c, ok := p.Component(s.Subject)
	if !ok {
		return ui.StateFailed, fmt.Errorf("no component %q is selected", s.Subject)
	}
	client, err := p.kube(ctx)
	if err != nil {
		return ui.StateFailed, err
	}
	set, err := p.Render(ctx, c)
	if err != nil {
		return ui.StateFailed, err
	}
	secrets, err := client.EnsureSecrets(ctx, c)
	if err != nil {
		return ui.StateFailed, err
	}
	certificates, err := client.EnsureCertificates(ctx, c, set.Objects)
	if err != nil {
		return ui.StateFailed, err
	}
	applied, err := p.apply(ctx, client, c.Name, set)
	if errors.Is(err, kube.ErrHandedOver) { // its secrets and certificates are still made here
		return ui.StateDone, client.InjectAuthorities(ctx, c.Name, set.Objects)
	}
	if err != nil {
		return ui.StateFailed, err
	}
	if err := client.InjectAuthorities(ctx, c.Name, set.Objects); err != nil {
		return ui.StateFailed, err
	}
	restarted, err := client.RestartReaders(ctx, c)
	if err != nil {
		return ui.StateFailed, err
	}
	for _, w := range restarted {
		p.sink.Emit(ui.Event{
			Type: ui.TypeNotice, Step: s.ID, Phase: plan.PhaseDeploy, Message: w.String() + " is restarted: a Secret that it reads was changed",
		})
	}
	tell := func(r check.Result) { report(r.Message, 0, 0) }
	later, err := p.await(ctx, client, c.Name, set, tell)
	if err != nil {
		return ui.StateFailed, err
	}
	conditions, err := p.conditions(ctx, c.Name, c.Ready)
	if err != nil {
		return ui.StateFailed, err
	}
	for _, condition := range conditions {
		if r := check.Await(ctx, condition, tell); r.State == check.Failed {
			return ui.StateFailed, r.Err
		}
	}
	if secrets+certificates+later+len(restarted)+applied.Created+applied.Changed+applied.Pruned == 0 {
		return ui.StateCached, nil
	}
	return ui.StateDone, nil
}

func (p *Platform) undeploy(ctx context.Context, s plan.Step, _ reporter) (ui.State, error) {
	client, err := p.kube(ctx)
	if err != nil {
		return ui.StateFailed, err
	}
	kept, err := client.RemoveOwned(ctx, s.Subject)
	for _, what := range kept {
		p.sink.Emit(ui.Event{Type: ui.TypeNotice, Step: s.ID, Phase: plan.PhaseDeploy, Message: "left in the cluster: " + what})
	}
	return stateOf(err)
}

// verify runs the checks of one component ("cluster" for those of the cluster itself).
func (p *Platform) verify(ctx context.Context, s plan.Step, report reporter) (ui.State, error) {
	results, err := p.Check(ctx, []string{s.Subject}, report)
	if err != nil {
		return ui.StateFailed, err
	}
	if ctx.Err() != nil { // what the checks say now is about the interruption
		return ui.StateFailed, ctx.Err()
	}
	p.addResults(results...)
	state, err := results.state()
	if state == ui.StateSkipped {
		return engine.Skip(plan.Cause{Kind: plan.CauseCheck, Root: results[0].Name + ": " + results[0].Detail})
	}
	return state, err
}
