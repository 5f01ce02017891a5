package environment

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/ui"
)

// deferrals keep what is left to do for components that were applied while the cluster did not
// know the kinds of all their objects. Another component brings those kinds, at any moment.
type deferrals struct {
	mu      sync.Mutex
	turns   map[string]*sync.Mutex // component → held while it is applied
	waiting map[string]deferredComponent
}

type deferredComponent struct {
	Rendered
	missing []kube.Ref // deferred objects
}

func (l *deferrals) turn(component string) *sync.Mutex {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.turns[component] == nil {
		l.turns[component] = &sync.Mutex{}
	}
	return l.turns[component]
}

func (l *deferrals) note(component string, set Rendered, missing []kube.Ref) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(missing) == 0 {
		delete(l.waiting, component)
	} else {
		l.waiting[component] = deferredComponent{set, missing}
	}
}

func (l *deferrals) all() map[string]deferredComponent {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.waiting)
}

// apply applies a component. What it brings of new kinds, others may have waited for: they
// are applied again.
func (p *Platform) apply(ctx context.Context, client *kube.Client, component string, set Rendered) (kube.Applied, error) {
	applied, err := p.applyOne(ctx, client, component, set)
	if err != nil || !slices.ContainsFunc(set.Objects, isCRD) {
		return applied, err
	}
	var g errgroup.Group
	for name, c := range p.deferred.all() {
		g.Go(func() error {
			_, err := p.applyOne(ctx, client, name, c.Rendered)
			return err
		})
	}
	return applied, g.Wait()
}

func (p *Platform) applyOne(ctx context.Context, client *kube.Client, component string, set Rendered) (kube.Applied, error) {
	turn := p.deferred.turn(component)
	turn.Lock()
	defer turn.Unlock()
	applied, err := client.ApplyFrom(ctx, component, set.inputs, set.Objects)
	if err == nil {
		p.deferred.note(component, set, applied.Deferred)
	}
	return applied, err
}

// await waits until a component is ready. Kinds may come to be between its application and
// the look at it.
func (p *Platform) await(
	ctx context.Context, client *kube.Client, component string, set Rendered, report func(check.Result),
) (created int, err error) {
	for {
		r := check.Await(ctx, client.Ready(component, set.Objects), report)
		if r.State == check.Succeeded {
			return created, nil
		}
		if !errors.Is(r.Err, kube.ErrDeferred) {
			return created, r.Err
		}
		applied, err := p.applyOne(ctx, client, component, set)
		if err != nil {
			return created, err
		}
		created += applied.Created + applied.Changed
	}
}

func isCRD(o *unstructured.Unstructured) bool { return o.GetKind() == "CustomResourceDefinition" }

// tellDeferred says which objects still wait for their kind.
func (p *Platform) tellDeferred() {
	waiting := p.deferred.all()
	for _, name := range slices.Sorted(maps.Keys(waiting)) {
		for _, object := range waiting[name].missing {
			p.sink.Emit(ui.Event{
				Type: ui.TypeNotice, Step: plan.KindDeploy.ID(name), Phase: plan.PhaseDeploy,
				Message: name + ": " + object.String() + " waits for its CRD",
			})
		}
	}
}
