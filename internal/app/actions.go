package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/check/smoke"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/native"
	"github.com/orrery-dev/orrery/internal/engine"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/ui"
)

// actions binds the kinds of steps to what does them.
func (p *platform) actions() map[plan.Kind]engine.Action {
	return map[plan.Kind]engine.Action{
		plan.KindBuild:   p.build,
		plan.KindImage:   p.image,
		plan.KindPrepare: p.prepare,
		plan.KindCluster: p.cluster,
		plan.KindNodes:   p.drive(driver.Driver.Ready),
		plan.KindDeploy:  p.deploy,
		plan.KindRemove:  p.undeploy,
		plan.KindVerify:  p.verify,
	}
}

func (p *platform) build(ctx context.Context, s plan.Step, _ func(string, float64, float64)) (ui.State, error) {
	bin, ok := p.binaries[s.Subject]
	if !ok {
		return ui.StateFailed, fmt.Errorf("no binary %q in the catalogue", s.Subject)
	}
	cached, err := p.supply.Cached(ctx, bin)
	if err != nil {
		return ui.StateFailed, err
	}
	if _, err := p.supply.Binary(ctx, bin); err != nil {
		if clang := p.hostCompiler(ctx, bin); clang != "" {
			p.sink.Emit(ui.Event{Type: ui.TypeWarning, Step: s.ID, Phase: "build", Message: fmt.Sprintf("this host's own %s is used in place of %s, which cannot be had: %v", clang, bin.Name, err)})
			return ui.StateDone, nil
		}
		return ui.StateFailed, err
	}
	if cached { // compared before the first step
		return ui.StateCached, nil
	}
	if err := p.refuseDrift(ctx, map[string]catalog.Binary{bin.Name: bin}, nil); err != nil {
		return ui.StateFailed, err
	}
	return ui.StateDone, nil
}

// prepare needs only the mirror's binary, so that images are pushed while the rest of
// the node distribution still compiles.
func (p *platform) prepare(ctx context.Context, s plan.Step, r func(string, float64, float64)) (ui.State, error) {
	isRegistry := func(b catalog.Binary) bool { return b.Name == "registry" }
	if i := slices.IndexFunc(p.catalog.Distribution.Binaries, isRegistry); i >= 0 {
		if _, err := p.place(ctx, p.catalog.Distribution.Binaries[i]); err != nil {
			return ui.StateFailed, err
		}
	}
	return p.drive(driver.Driver.Prepare)(ctx, s, r)
}

// cluster lays out the node distribution, verifies it and starts the nodes from it.
func (p *platform) cluster(ctx context.Context, s plan.Step, r func(string, float64, float64)) (ui.State, error) {
	var g errgroup.Group
	for _, b := range p.catalog.Distribution.Programs() {
		g.Go(func() error {
			_, err := p.place(ctx, b)
			return err
		})
	}
	g.Go(func() error { return p.archives(ctx) })
	if err := g.Wait(); err != nil {
		return ui.StateFailed, err
	}
	return p.drive(driver.Driver.Ensure)(ctx, s, r)
}

func (p *platform) registry() mirror.Mirror { return native.Mirror(p.stateDir, p.spec.Ports.Registry) }

func (p *platform) image(ctx context.Context, s plan.Step, _ func(string, float64, float64)) (ui.State, error) {
	img, ok := p.images[s.Subject]
	if !ok {
		return ui.StateFailed, fmt.Errorf("no image %q in the catalogue", s.Subject)
	}
	built, err := p.supply.Image(ctx, img)
	if errors.Is(err, image.ErrNotReachable) {
		return engine.Skip("%s", missing(err)) // it answered when the plan was made
	}
	if err != nil {
		return ui.StateFailed, err
	}
	parts := map[string]catalog.Binary{}
	for _, bin := range img.Binaries {
		parts[bin.Name] = bin
	}
	if err := p.refuseDrift(ctx, parts, map[string]catalog.Image{img.Name: img}); err != nil {
		return ui.StateFailed, err
	}
	if err := image.Push(ctx, p.registry(), built); err != nil {
		return ui.StateFailed, err
	}
	if err := p.admit(ctx, img, built); err != nil {
		return ui.StateFailed, err
	}
	p.mu.Lock()
	p.built[img.Name] = built
	p.mu.Unlock()
	return ui.StateDone, nil
}

func (p *platform) drive(do func(driver.Driver, context.Context) error) engine.Action {
	return func(ctx context.Context, _ plan.Step, _ func(string, float64, float64)) (ui.State, error) {
		if err := do(p.driver, ctx); err != nil {
			return ui.StateFailed, err
		}
		return ui.StateDone, nil
	}
}

func (p *platform) deploy(ctx context.Context, s plan.Step, report func(string, float64, float64)) (ui.State, error) {
	c, ok := p.component(s.Subject)
	if !ok {
		return ui.StateFailed, fmt.Errorf("no component %q is selected", s.Subject)
	}
	client, err := p.client()
	if err != nil {
		return ui.StateFailed, err
	}
	set, err := p.render(ctx, c)
	if err != nil {
		return ui.StateFailed, err
	}
	if err := client.EnsureSecrets(ctx, c); err != nil {
		return ui.StateFailed, err
	}
	applied, err := p.apply(ctx, client, c.Name, set)
	if err != nil {
		return ui.StateFailed, err
	}
	later, err := p.await(ctx, client, c.Name, set, func(r check.Result) { report(r.Message, 0, 0) })
	if err != nil {
		return ui.StateFailed, err
	}
	conditions, err := p.conditions(c.Name, c.Ready)
	if err != nil {
		return ui.StateFailed, err
	}
	for _, condition := range conditions {
		if r := check.Await(ctx, condition, func(r check.Result) { report(r.Message, 0, 0) }); r.State == check.Failed {
			return ui.StateFailed, r.Err
		}
	}
	if later+applied.Created+applied.Changed+applied.Pruned == 0 {
		return ui.StateCached, nil
	}
	return ui.StateDone, nil
}

func (p *platform) undeploy(ctx context.Context, s plan.Step, _ func(string, float64, float64)) (ui.State, error) {
	client, err := p.client()
	if err != nil {
		return ui.StateFailed, err
	}
	if err := client.Remove(ctx, s.Subject); err != nil {
		return ui.StateFailed, err
	}
	return ui.StateDone, nil
}

// verify runs the checks of one component ("cluster" for those of the cluster itself).
func (p *platform) verify(ctx context.Context, s plan.Step, report func(string, float64, float64)) (ui.State, error) {
	results, err := p.runChecks(ctx, []string{s.Subject}, report)
	if err != nil {
		return ui.StateFailed, err
	}
	if ctx.Err() != nil { // what the checks say now is about the interruption
		return ui.StateFailed, ctx.Err()
	}
	p.tally.add(results...)
	state, err := results.state()
	if state == ui.StateSkipped {
		return engine.Skip("%s: %s", results[0].Name, results[0].Detail)
	}
	return state, err
}

// runChecks awaits the checks of the named components side by side.
func (p *platform) runChecks(ctx context.Context, names []string, report func(string, float64, float64)) (checkResults, error) {
	conditions, err := p.checks(names)
	if err != nil {
		return nil, err
	}
	results := make(checkResults, len(conditions))
	var g errgroup.Group
	var mu sync.Mutex
	done := 0
	for i, c := range conditions {
		g.Go(func() error {
			results[i] = runCheck(ctx, c)
			mu.Lock()
			defer mu.Unlock()
			done++
			report(c.Name, float64(done), float64(len(conditions)))
			return nil
		})
	}
	err = g.Wait()
	p.record(ctx, results)
	return results, err
}

// checks collects the conditions of the named components.
func (p *platform) checks(names []string) ([]check.Condition, error) {
	var all []check.Condition
	for _, name := range names {
		wanted := smoke.ClusterChecks
		if name != "cluster" {
			c, ok := p.component(name)
			if !ok {
				return nil, usagef("component %q is not part of this environment: want cluster or one of %v", name, p.componentNames())
			}
			wanted = c.Smoke
			if why := p.leftOut[name]; why != "" {
				all = append(all, skippedChecks(name, wanted, why)...)
				continue
			}
		}
		conditions, err := p.conditions(name, wanted)
		if err != nil {
			return nil, err
		}
		all = append(all, conditions...)
	}
	return all, nil
}

// conditions are those that a component names, as its checks or as what makes it ready.
func (p *platform) conditions(component string, names []string) ([]check.Condition, error) {
	if len(names) == 0 {
		return nil, nil
	}
	client, err := p.client()
	if err != nil {
		return nil, err
	}
	boards, err := p.dashboards()
	if err != nil {
		return nil, err
	}
	known := smoke.Checks(smoke.Env{Client: client, Spec: p.spec, Images: p.references(), Observe: p.driver.Observe, Flows: p.flows(nil).Read, Components: p.componentNames(), Dashboards: boards})
	var conditions []check.Condition
	for _, name := range names {
		conditionsOf, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("component %q names the unknown check %q", component, name)
		}
		conditions = append(conditions, conditionsOf(component)...)
	}
	return conditions, nil
}
