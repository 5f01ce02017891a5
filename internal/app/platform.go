package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/apt"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/engine"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// platform is a session together with the catalogue: what the steps of a plan act on.
type platform struct {
	*session
	catalog    *catalog.Catalog
	overlay    catalog.Overlay
	components []catalog.Component
	supply     supplier
	sources    *sourced       // supply, when it asks registries too
	builder    *image.Builder // what supply builds with; nil when nothing is built here
	locked     *lock.Platform // nil when there is no lock: nothing is compared
	runner     *engine.Runner
	prune      bool              // components that were not selected leave the cluster
	require    []string          // components and images that must not be left out
	leftOut    map[string]string // components that are not there, with the reason
	binaries   map[string]catalog.Binary
	images     map[string]catalog.Image

	mu    sync.Mutex
	built map[string]image.Built // image name → what the mirror has
	cube  *kube.Client           // connected once, by the first step that needs it
	late  deferrals
	tally tally
	tree  func() kube.Tree // of the catalogue; "" when it cannot be read

	census census // of the cluster, when the plan was made

	signing signing
}

// platform adds the catalogue and the builder. names, when given, replace the
// environment's own choice of components.
func (s *session) platform(names []string) (*platform, error) {
	cat, err := s.loadCatalog()
	if err != nil {
		return nil, err
	}
	locked, err := loadLocked(cat.Root)
	if err != nil {
		return nil, err
	}
	useMeasured(cat, locked)
	cat = cat.For(s.spec.Network.Plugin)
	if len(names) == 0 {
		names = s.componentsWanted(cat)
	}
	components, err := cat.Select(s.spec.Overlay, names)
	if err != nil {
		return nil, usageError{err}
	}
	// Verification of one part goes on when another part fails.
	runner := &engine.Runner{Sink: s.sink, Log: s.log, KeepGoing: map[plan.Kind]bool{plan.KindVerify: true}}
	b, supply, err := s.suppliers(cat.Root, locked, s.spec.Images.Sources, runner.Tap())
	if err != nil {
		return nil, err
	}
	p := &platform{
		session: s, catalog: cat, locked: locked, overlay: cat.Overlays[s.spec.Overlay], components: components, supply: supply, builder: b, runner: runner,
		binaries: map[string]catalog.Binary{}, images: map[string]catalog.Image{}, built: map[string]image.Built{},
	}
	p.leftOut = s.skipped
	p.tree = sync.OnceValue(func() kube.Tree {
		tree, err := kube.ReadTree(filepath.Join(cat.Root, "infra"))
		if err != nil {
			s.log.Debug("the catalogue is rendered to be compared", "reason", err)
		}
		return tree
	})
	if p.sources, err = newSourced(p.supply, s.spec.Images, locked, runner.Tap()); err != nil {
		return nil, err
	}
	p.supply = p.sources
	runner.Actions = p.actions()
	for _, bin := range cat.Distribution.Files() {
		p.binaries[bin.Name] = bin
	}
	add := func(img catalog.Image) {
		p.images[img.Name] = img
		for _, bin := range img.Binaries {
			p.binaries[bin.Name] = bin
		}
	}
	add(cat.Distribution.Sandbox)
	for _, c := range components {
		for _, img := range c.Images {
			add(img)
		}
	}
	return p, nil
}

// useMeasured replaces the catalogue's build costs, which somebody wrote down once, by
// those that the lock has from a real build: the ETA comes from them.
func useMeasured(cat *catalog.Catalog, locked *lock.Platform) {
	if locked == nil {
		return
	}
	cat.EachBinary(func(b *catalog.Binary) {
		if cpu := locked.Binaries[b.Name].CPUSeconds; cpu > 0 {
			b.CPUSeconds = cpu
		}
	})
}

// plan looks at what is there and says what is left to do.
func (p *platform) plan(ctx context.Context, obs driver.Observation, skipVerify bool) (plan.Plan, error) {
	if err := p.learnImages(ctx); err != nil {
		return plan.Plan{}, err
	}
	in := plan.Input{
		Spec: p.spec, Components: p.components, Distribution: p.catalog.Distribution, Bootstrap: p.overlay.Bootstrap, SkipVerify: skipVerify,
		Phase: string(obs.Phase), Cached: map[string]bool{}, Pushed: map[string]bool{}, Unsigned: map[string]bool{}, Current: map[string]bool{},
	}
	running := obs.Phase == driver.PhaseRunning
	if running {
		p.learnPulled(ctx)
	}
	var mu sync.Mutex
	var g errgroup.Group
	for name, bin := range p.binaries {
		g.Go(func() error {
			ok, err := p.supply.Cached(ctx, bin)
			if err == nil && !ok && bin.Debian != nil && apt.Available() != nil {
				ok = p.hostCompiler(ctx, bin) != "" // it never will be, and need not
			}
			mu.Lock()
			defer mu.Unlock()
			in.Cached[name] = ok
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return plan.Plan{}, err
	}
	built := maps.Clone(p.built)
	g.Go(func() error {
		in.Pulled, in.Missing = p.find(ctx, in.Cached, running)
		return nil
	})
	if running {
		policy, err := p.imagePolicy()
		if err != nil && p.spec.Images.Verify != spec.VerifyWarn { // else each image says so
			return plan.Plan{}, err
		}
		for name, b := range built {
			g.Go(func() error {
				pushed := image.Pushed(ctx, p.registry(), b)
				signed := pushed && p.signed(ctx, policyFor(policy, p.images[name]), b)
				mu.Lock()
				defer mu.Unlock()
				in.Pushed[name], in.Unsigned[name] = pushed, pushed && !signed
				return nil
			})
		}
		g.Go(func() error {
			in.Current, in.NodesReady, in.Installed = p.current(ctx)
			// The cluster believes in a node for a while after its death; the driver does not.
			in.NodesReady = in.NodesReady && !slices.ContainsFunc(obs.Nodes, func(n driver.Node) bool { return !n.Running && !n.Stopped })
			if !p.prune {
				in.Installed = nil
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return plan.Plan{}, err
	}
	return plan.Up(in)
}

// learnImages notes the digests of the images that are built already.
func (p *platform) learnImages(ctx context.Context) error {
	var g errgroup.Group
	for name, img := range p.images {
		g.Go(func() error {
			built, ok, err := p.supply.CachedImage(ctx, img)
			if ok {
				p.mu.Lock()
				p.built[name] = built
				p.mu.Unlock()
			}
			return err
		})
	}
	return g.Wait()
}

func (p *platform) client() (*kube.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cube == nil {
		c, err := p.kube()
		if err != nil {
			return nil, err
		}
		p.cube = c
	}
	return p.cube, nil
}

// dashboards are those of the components of this environment.
func (p *platform) dashboards() ([]dashboard.Dashboard, error) {
	all, err := dashboard.LoadAll(p.catalog.Root)
	if err != nil {
		return nil, usageError{err}
	}
	return slices.DeleteFunc(all, func(d dashboard.Dashboard) bool {
		_, here := p.component(d.Component)
		return !here
	}), nil
}

func (p *platform) component(name string) (catalog.Component, bool) {
	i := slices.IndexFunc(p.components, func(c catalog.Component) bool { return c.Name == name })
	if i < 0 {
		return catalog.Component{}, false
	}
	return p.components[i], true
}

func (p *platform) componentNames() []string {
	var names []string
	for _, c := range p.components {
		names = append(names, c.Name)
	}
	return names
}

// learnPulled notes the images that the mirror has under a digest which is known without
// them: whatever became of the cache, they need not be pulled again.
func (p *platform) learnPulled(ctx context.Context) {
	var g errgroup.Group
	for name, img := range p.images {
		if _, here := p.built[name]; here || img.Registry == "" {
			continue
		}
		g.Go(func() error {
			b := image.Built{Name: name, Version: img.Version, Digest: img.RegistryDigest()}
			if image.Pushed(ctx, p.registry(), b) {
				p.mu.Lock()
				p.built[name] = b
				p.mu.Unlock()
			}
			return nil
		})
	}
	_ = g.Wait()
}

// toBuild lists the binaries whose build is still to be done.
func (p *platform) toBuild(pl plan.Plan) []catalog.Binary {
	var bins []catalog.Binary
	for _, s := range pl.Steps {
		if s.Kind == plan.KindBuild && !s.Done && s.Skip == "" {
			bins = append(bins, p.binaries[s.Subject])
		}
	}
	return bins
}

// preflight refuses a host that cannot run the environment; what merely should be
// looked at becomes a warning.
func (p *platform) preflight(ctx context.Context) error {
	var errs []error
	for _, c := range p.driver.Preflight(ctx) {
		switch r := c.Probe(ctx); r.State {
		case check.Failed:
			errs = append(errs, fmt.Errorf("%s: %w", c.Name, r.Err))
		case check.Skipped:
			p.sink.Emit(ui.Event{Type: ui.TypeWarning, Message: c.Name + ": " + r.Message})
		}
	}
	if err := errors.Join(errs...); err != nil {
		return refusedError{fmt.Errorf("this machine cannot run the environment:\n%w", err)}
	}
	return nil
}

// run executes the plan. deployed: all but verification came to its end, or was left out.
func (p *platform) run(ctx context.Context, pl plan.Plan) (deployed bool, err error) {
	p.leftOut = pl.Skipped()
	result, err := p.runner.Run(ctx, pl)
	p.tellLate()
	for _, s := range pl.Steps {
		state := result.Steps[s.ID].State
		if !s.Done && s.Kind != plan.KindVerify && state != ui.StateDone && state != ui.StateCached && state != ui.StateSkipped {
			return false, err
		}
	}
	return true, errors.Join(err, p.noteSkipped(pl, result))
}

// save keeps what the environment is made with.
func (s *session) save() error {
	if s.created.IsZero() {
		s.created = time.Now().UTC().Truncate(time.Second)
	}
	return engine.State{Spec: s.spec, Created: s.created, Ports: s.spec.Ports, Bundle: s.bundle, Skipped: s.skipped, NetworkReason: s.networkReason}.Save(s.stateDir)
}
