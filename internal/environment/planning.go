package environment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/apt"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Planned is what is left to do, and what was seen when that was decided.
type Planned struct {
	plan.Plan
	Observation driver.Observation
	// Beside are components that the profile does not have and that were deployed by name. They
	// stay as they are.
	Beside []string

	cluster clusterState
}

// UpToDate: everything that is wanted runs, as it is wanted.
func (p Planned) UpToDate() bool {
	return p.Observation.Phase == driver.PhaseRunning && len(p.Changes()) == 0
}

// Fresh: nothing of the environment exists outside its state folder.
func (p Planned) Fresh() bool { return p.Observation.Phase == driver.PhaseAbsent }

// Plan looks at what is there and says what is left to do.
func (p *Platform) Plan(ctx context.Context, skipVerify bool) (Planned, error) {
	obs, err := p.Observe(ctx)
	if err != nil {
		return Planned{}, err
	}
	planned := Planned{Observation: obs}
	if err := p.tellSecrets(); err != nil {
		return planned, err
	}
	if err := p.LearnImages(ctx); err != nil {
		return planned, err
	}
	in := plan.Input{
		Spec: p.Spec, Components: p.Components, Bootstrap: p.Overlay.Bootstrap, SkipVerify: skipVerify || p.selection.ClusterOnly,
		Mirror: p.Kind.Mirror, Nodes: p.Kind.Nodes, Phase: string(obs.Phase), Unsigned: map[string]bool{},
	}
	if p.Kind.Distribution {
		in.Distribution, in.MirrorPrograms = p.Catalog.Distribution, p.Kind.MirrorPrograms
	}
	running := obs.Phase == driver.PhaseRunning
	var lost []string
	if running && p.Kind.Mirror {
		lost = p.findPushed(ctx)
	}
	if !p.Kind.Mirror {
		in.Missing = p.findPublished(ctx)
	} else if in.Cached, err = p.cached(ctx); err != nil {
		return planned, err
	}
	p.mu.Lock()
	built := maps.Clone(p.built)
	p.mu.Unlock()
	var g errgroup.Group
	g.Go(func() (err error) {
		in.Lacking, err = p.Supply.FindFiles(ctx, p.Components, p.patience(running))
		return err
	})
	g.Go(func() error {
		if p.Kind.Mirror {
			in.Pulled, in.Missing = p.find(ctx, in.Cached, running)
		}
		return nil
	})
	if running {
		g.Go(func() (err error) {
			if !p.Kind.Mirror {
				return nil
			}
			in.Pushed, in.Unsigned, err = p.inMirror(ctx, built)
			if err != nil {
				return err
			}
			for _, name := range lost {
				in.Pushed[name] = false
			}
			return nil
		})
		g.Go(func() error {
			planned.cluster, in.Current = p.current(ctx)
			in.Deferred = map[string]bool{}
			for name, inv := range planned.cluster.inventories {
				in.Deferred[name] = len(inv.Deferred) > 0
			}
			in.NodesReady = p.nodesAsWanted(planned.cluster.nodes)
			// The cluster believes in a node for a while after its death; the driver does not.
			in.NodesReady = in.NodesReady && !slices.ContainsFunc(obs.Nodes, func(n driver.Node) bool { return !n.Running && !n.Stopped })
			others := handed(planned.cluster.inventories)
			for _, name := range others {
				in.Deferred[name] = false
			}
			if len(others) > 0 { // who applies them stays
				others = append(others, gitops.Component, gitops.GitServer)
			}
			p.tellHanded(planned.cluster.inventories)
			if p.selection.Prune {
				planned.Beside = p.beside(planned.cluster.inventories)
				in.Installed = slices.DeleteFunc(slices.Sorted(maps.Keys(planned.cluster.inventories)), func(n string) bool {
					return slices.Contains(planned.Beside, n) || slices.Contains(others, n)
				})
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return planned, err
	}
	planned.Plan, err = plan.Up(in)
	return planned, err
}

// cached says of every binary whether it is on this machine.
func (p *Platform) cached(ctx context.Context) (map[string]bool, error) {
	var mu sync.Mutex
	cached := map[string]bool{}
	return cached, inParallel(p.Parts.Binaries, func(name string, bin catalog.Binary) error {
		ok, err := p.Supply.Cached(ctx, bin)
		if err == nil && !ok && bin.Debian != nil && apt.Available() != nil {
			ok = supply.HostCompiler(ctx, bin) != "" // it never will be, and need not
		}
		mu.Lock()
		defer mu.Unlock()
		cached[name] = ok
		return err
	})
}

// inMirror says of the images that are known what the mirror has of them, and what of that is
// not signed as it is wanted.
func (p *Platform) inMirror(ctx context.Context, built map[string]image.Built) (pushed, unsigned map[string]bool, err error) {
	pushed, unsigned = map[string]bool{}, map[string]bool{}
	policy, err := p.Keys.Policy(p.Supply.Locked)
	if err != nil && p.Spec.Images.Verify != spec.VerifyWarn { // else each image says so
		return nil, nil, err
	}
	mirror, err := p.Mirror()
	if err != nil {
		return nil, nil, err
	}
	var mu sync.Mutex
	return pushed, unsigned, inParallel(built, func(name string, b image.Built) error {
		there := image.Pushed(ctx, mirror, b)
		signed := there
		if there {
			_, err := sign.Verify(ctx, mirror, b.Name, b.Digest, supply.PolicyFor(policy, p.Parts.Images[name]))
			signed = err == nil
		}
		mu.Lock()
		defer mu.Unlock()
		pushed[name], unsigned[name] = there, there && !signed
		return nil
	})
}

// findPushed notes the images that the mirror has under a digest which is known without them:
// whatever became of the cache, they need be neither pulled nor built again. lost are those that
// it does not have.
func (p *Platform) findPushed(ctx context.Context) (lost []string) {
	mirror, err := p.Mirror()
	if err != nil {
		return nil // which the plan says when it asks again
	}
	var mu sync.Mutex
	_ = inParallel(p.Parts.Images, func(name string, img catalog.Image) error {
		b := image.Built{Name: name, Version: img.Version, Digest: img.RegistryDigest()}
		if b.Digest == "" && p.Supply.Locked != nil {
			b.Digest = p.Supply.Locked.Images[name].Digest
		}
		if _, here := p.known(name); here || b.Digest == "" {
			return nil
		}
		if image.Pushed(ctx, mirror, b) {
			p.note(b)
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		lost = append(lost, name)
		return nil
	})
	return lost
}

// find decides where the images come from that are neither here nor quickly made of cached
// binaries.
func (p *Platform) find(ctx context.Context, cached map[string]bool, running bool) (pulled map[string]bool, lacking map[string]plan.Cause) {
	var images []catalog.Image
	var fetched []string // before: as little to be compiled as what is pulled now
	for name, img := range p.Parts.Images {
		built, here := p.known(name)
		if here && p.Supply.Fetched(built) {
			fetched = append(fetched, name)
		}
		compiled := len(img.Binaries) > 0 && !slices.ContainsFunc(img.Binaries, func(b catalog.Binary) bool { return !cached[b.Name] })
		if !here && !compiled {
			images = append(images, img)
		}
	}
	limit := p.patience(running)
	pulled, lacking = p.Supply.Find(ctx, images, limit)
	for _, name := range fetched {
		pulled[name] = true
	}
	if limit == supply.ProbeTimeAgain {
		p.asBefore(lacking)
	}
	return pulled, lacking
}

// patience is how long whoever has images and files is asked: briefly where they had no answer before.
func (p *Platform) patience(running bool) time.Duration {
	if running && len(p.Skipped) > 0 && len(p.selection.Require) == 0 {
		return supply.ProbeTimeAgain
	}
	return supply.ProbeTime
}

// asBefore puts what was found out in the long time in place of what there was too little time
// for now.
func (p *Platform) asBefore(lacking map[string]plan.Cause) {
	for _, c := range p.Components {
		before, was := p.Skipped[c.Name]
		for _, img := range c.Images {
			if was && img.Registry != "" && before.Image == img.Name && lacking[img.Name].Kind == plan.CauseNoAnswer {
				lacking[img.Name] = before
			}
		}
	}
}

// Refuse is the error when the plan leaves out what is required, when it would compile what is not to
// be compiled, and when it would lose data.
func (p *Platform) Refuse(pl plan.Plan) error {
	var errs []error
	for _, name := range p.selection.Require {
		for _, kind := range []plan.Kind{plan.KindDeploy, plan.KindImage} {
			if s, ok := pl.Step(kind.ID(name)); ok && !s.Skip.IsZero() {
				errs = append(errs, fmt.Errorf("%s is required and would be skipped: %s", name, s.Skip))
				break
			}
		}
	}
	errs = append(errs, p.Supply.RefuseBuilding(p.ToBuild(pl), p.Keys), p.refuseLoss(pl))
	return errors.Join(errs...)
}

// RefuseDrift refuses what is not as the lock has it, of everything that is selected.
func (p *Platform) RefuseDrift(ctx context.Context) error {
	return p.Supply.RefuseAllDrift(ctx, p.Parts)
}

// WarnSkipped tells what a plan leaves out.
func (p *Platform) WarnSkipped(pl plan.Plan) {
	skipped := pl.Skipped()
	for _, name := range slices.Sorted(maps.Keys(skipped)) {
		p.sink.Emit(ui.Event{Type: ui.TypeWarning, Phase: plan.PhaseDeploy, Message: fmt.Sprintf("Skipped: %s: %s", name, skipped[name])})
	}
}

// inParallel does something for every entry, and returns the first error.
func inParallel[V any](m map[string]V, do func(string, V) error) error {
	var g errgroup.Group
	for name, v := range m {
		g.Go(func() error { return do(name, v) })
	}
	return g.Wait()
}
