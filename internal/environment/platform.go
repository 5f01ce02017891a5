package environment

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/engine"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/gitops"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Selection is what of the catalogue an environment is meant to have.
type Selection struct {
	// Components, with what they need; none: those of orrery.yaml, or all of the overlay.
	Components []string
	// ClusterOnly: no component at all.
	ClusterOnly bool
	// Overlay in place of the environment's own, to look at; often "".
	Overlay string
	// Prune: components that were not selected leave the cluster.
	Prune bool
	// Require names components and images that must not be left out.
	Require []string
}

// Platform is an environment together with its catalogue: what the steps of a plan act on.
type Platform struct {
	*Environment
	Catalog    *catalog.Catalog
	Overlay    catalog.Overlay
	Components []catalog.Component
	// Beyond is what the overlay, or the bundle, has and the profile does not, sorted.
	Beyond []string
	Supply *supply.Supply
	Parts  supply.Parts

	selection Selection
	sink      ui.Sink // of steps: the runner learns from it how far they are
	runner    *engine.Runner
	tree      func() kube.Tree // of the catalogue; "" when it cannot be read
	key       ownKey
	deferred  deferrals

	mu      sync.Mutex
	built   map[string]image.Built // image name → what the mirror has
	leftOut map[string]plan.Cause  // components that are not there
	client  *kube.Client           // connected once, by the first step that needs it
	nodes   []spec.Node            // of somebody else's cluster, once they were seen
	results CheckResults           // of the checks that steps ran
}

// Platform reads the catalogue and opens what it names. It changes nothing.
func (e *Environment) Platform(want Selection) (*Platform, error) {
	cat, err := e.Location.Catalog()
	if err != nil {
		return nil, err
	}
	locked, err := e.Location.Lock()
	if err != nil {
		return nil, err
	}
	cat = cat.For(e.Spec.Network.Plugin, e.Kind.NodeNetwork)
	if x := e.Spec.Existing; x != nil {
		if cat, err = cat.Existing(x.Provides); err != nil {
			return nil, failure.Usage{Err: err}
		}
	}
	overlay := e.Spec.Overlay
	if want.Overlay != "" {
		overlay = want.Overlay
	}
	components, beyond, err := e.selected(cat, overlay, want)
	if err != nil {
		return nil, err
	}
	nodes := cat.Distribution
	if !e.Distribution {
		nodes = catalog.Distribution{}
	}
	p := &Platform{
		Environment: e, Catalog: cat, Overlay: cat.Overlays[overlay], Components: components, Beyond: beyond, Parts: supply.Of(nodes, components),
		selection: want, built: map[string]image.Built{}, leftOut: e.Skipped,
		// Verification of one part goes on when another part fails.
		runner:   &engine.Runner{Sink: e.request.Sink, Log: e.request.Log, KeepGoing: map[plan.Kind]bool{plan.KindVerify: true}},
		deferred: deferrals{turns: map[string]*sync.Mutex{}, waiting: map[string]deferredComponent{}},
	}
	p.sink = p.runner.Tap()
	p.runner.Actions = p.actions()
	p.tree = sync.OnceValue(func() kube.Tree {
		tree, err := kube.ReadTree(filepath.Join(cat.Root, "infra"))
		if err != nil {
			e.request.Log.Debug("the catalogue is rendered to be compared", "reason", err)
		}
		return tree
	})
	p.Supply, err = supply.Open(supply.Options{
		Location: e.Location, Catalog: cat, Lock: locked, CacheDir: e.request.CacheDir, Images: e.Spec.Images, Sink: p.sink, Log: e.request.Log,
	})
	if err != nil {
		return nil, err
	}
	return p, p.checkRequired()
}

// selected are the components that are wanted: those that were named, those of orrery.yaml or,
// when it names none, those of the profile: of the overlay, or of what a bundle was made with, as
// far as it is for this environment's network. beyond are those that the profile leaves out; a
// bundle without a word about profiles is deployed whole.
func (e *Environment) selected(cat *catalog.Catalog, overlay string, want Selection) (components []catalog.Component, beyond []string, err error) {
	if want.ClusterOnly {
		return nil, nil, nil
	}
	names := want.Components
	var served []string // what Argo CD reads, where that is a component
	if e.Spec.GitOps.Source == spec.GitOpsGit && len(names) == 0 {
		served = []string{gitops.GitServer}
	}
	if len(names) == 0 {
		names = e.Spec.Components
	}
	if len(names) > 0 {
		names = slices.Concat(names, served)
		if components, err = cat.Select(overlay, names); err != nil {
			return nil, nil, failure.Usage{Err: err}
		}
		return components, nil, nil
	}
	within := cat.Within(e.Spec.Profile)
	all, names := cat.Overlays[overlay].Components, within.Overlays[overlay].Components
	of, bundled, err := e.Location.Components()
	if err != nil {
		return nil, nil, err
	}
	if of == overlay && len(bundled) > 0 {
		all = cat.Here(bundled)
		names = all
		if e.Spec.Profile != "" {
			names = slices.DeleteFunc(slices.Clone(all), func(n string) bool {
				return !slices.Contains(within.Overlays[overlay].Components, n)
			})
		}
	}
	if components, err = within.Select(overlay, slices.Concat(names, served)); err != nil {
		return nil, nil, failure.Usage{Err: err}
	}
	for _, name := range all {
		if !slices.ContainsFunc(components, named(name)) {
			beyond = append(beyond, name)
		}
	}
	slices.Sort(beyond)
	return components, beyond, nil
}

// checkRequired refuses names that mean nothing here.
func (p *Platform) checkRequired() error {
	for _, name := range p.selection.Require {
		_, component := p.Component(name)
		if _, img := p.Parts.Images[name]; !component && !img {
			return failure.Usagef("--require %s: neither a component of this environment (%s) nor one of its images (%s)",
				name, strings.Join(p.ComponentNames(), ", "), strings.Join(slices.Sorted(maps.Keys(p.Parts.Images)), ", "))
		}
	}
	return nil
}

// named tells the component of a name.
func named(name string) func(catalog.Component) bool {
	return func(c catalog.Component) bool { return c.Name == name }
}

// Component finds a selected component by its name.
func (p *Platform) Component(name string) (catalog.Component, bool) {
	i := slices.IndexFunc(p.Components, named(name))
	if i < 0 {
		return catalog.Component{}, false
	}
	return p.Components[i], true
}

// ComponentNames are those of the selected components, in the order of their needs.
func (p *Platform) ComponentNames() []string {
	var names []string
	for _, c := range p.Components {
		names = append(names, c.Name)
	}
	return names
}

// LeftOut says why a component is not there; zero when it is, or should be.
func (p *Platform) LeftOut(component string) plan.Cause {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leftOut[component]
}

// Dashboards are those of the components of this environment.
func (p *Platform) Dashboards() ([]dashboard.Dashboard, error) {
	all, err := dashboard.LoadAll(p.Catalog.Root)
	if err != nil {
		return nil, failure.Usage{Err: err}
	}
	return slices.DeleteFunc(all, func(d dashboard.Dashboard) bool {
		_, here := p.Component(d.Component)
		return !here
	}), nil
}

// kube is the client that all steps share.
func (p *Platform) kube(ctx context.Context) (*kube.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client == nil {
		c, err := p.Kube(ctx)
		if err != nil {
			return nil, err
		}
		p.client = c
	}
	return p.client, nil
}

// LearnImages notes the digests of the images that are on this machine already.
func (p *Platform) LearnImages(ctx context.Context) error {
	return inParallel(p.Parts.Images, func(name string, img catalog.Image) error {
		built, ok, err := p.Supply.CachedImage(ctx, img)
		if ok {
			p.note(built)
		}
		return err
	})
}

// note notes what the mirror has, or will have, of an image.
func (p *Platform) note(built image.Built) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.built[built.Name] = built
}

func (p *Platform) known(name string) (image.Built, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	built, ok := p.built[name]
	return built, ok
}

// Preflight refuses a host that cannot run the environment; what merely should be looked at
// becomes a warning.
func (p *Platform) Preflight(ctx context.Context) error {
	var errs []error
	for _, c := range p.PreflightConditions(ctx) {
		switch r := c.Probe(ctx); r.State {
		case check.Failed:
			errs = append(errs, fmt.Errorf("%s: %w", c.Name, r.Err))
		case check.Skipped:
			p.warn("%s: %s", c.Name, r.Message)
		}
	}
	if err := errors.Join(errs...); err != nil {
		where := "this machine"
		if !p.Kind.Nodes {
			where = "the cluster"
		}
		return failure.Refusedf("%s cannot run the environment:\n%w", where, err)
	}
	return nil
}

// ToBuild lists the binaries whose build is still to be done.
func (p *Platform) ToBuild(pl plan.Plan) []catalog.Binary {
	var bins []catalog.Binary
	for _, s := range pl.Steps {
		if s.Kind == plan.KindBuild && s.Pending() {
			bins = append(bins, p.Parts.Binaries[s.Subject])
		}
	}
	return bins
}

// usedNevertheless is the warning about what images.verify only warns of.
const usedNevertheless = "images.verify is warn, so it is used nevertheless: %v"

func (p *Platform) warnStep(step, phase, format string, a ...any) {
	p.sink.Emit(ui.Event{Type: ui.TypeWarning, Step: step, Phase: phase, Message: fmt.Sprintf(format, a...)})
}
