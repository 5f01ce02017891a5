package app

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
	one     map[string]*sync.Mutex // component → held while it is applied
	waiting map[string]lateComponent
}

type lateComponent struct {
	rendered
	missing []string // deferred objects
}

func (l *deferrals) lock(component string) *sync.Mutex {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.one == nil {
		l.one, l.waiting = map[string]*sync.Mutex{}, map[string]lateComponent{}
	}
	if l.one[component] == nil {
		l.one[component] = &sync.Mutex{}
	}
	return l.one[component]
}

func (l *deferrals) note(component string, set rendered, missing []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(missing) == 0 {
		delete(l.waiting, component)
	} else {
		l.waiting[component] = lateComponent{set, missing}
	}
}

func (l *deferrals) all() map[string]lateComponent {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.waiting)
}

// apply applies a component. What it brings of new kinds, others may have waited for: they
// are applied again.
func (p *platform) apply(ctx context.Context, client *kube.Client, component string, set rendered) (kube.Applied, error) {
	applied, err := p.applyOne(ctx, client, component, set)
	if err != nil || !slices.ContainsFunc(set.objs, isCRD) {
		return applied, err
	}
	var g errgroup.Group
	for name, c := range p.late.all() {
		g.Go(func() error {
			_, err := p.applyOne(ctx, client, name, c.rendered)
			return err
		})
	}
	return applied, g.Wait()
}

func (p *platform) applyOne(ctx context.Context, client *kube.Client, component string, set rendered) (kube.Applied, error) {
	turn := p.late.lock(component)
	turn.Lock()
	defer turn.Unlock()
	applied, err := client.ApplyFrom(ctx, component, set.inputs, set.objs)
	if err == nil {
		p.late.note(component, set, applied.Deferred)
	}
	return applied, err
}

// await waits until a component is ready. Kinds may come to be between its application and
// the look at it.
func (p *platform) await(ctx context.Context, client *kube.Client, component string, set rendered, report func(check.Result)) (created int, err error) {
	for {
		r := check.Await(ctx, client.Ready(component, set.objs), report)
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

// tellLate says which objects still wait for their kind.
func (p *platform) tellLate() {
	waiting := p.late.all()
	for _, name := range slices.Sorted(maps.Keys(waiting)) {
		for _, object := range waiting[name].missing {
			p.sink.Emit(ui.Event{Type: ui.TypeNotice, Step: string(plan.KindDeploy) + "/" + name, Phase: "deploy", Message: name + ": " + object + " waits for its CRD"})
		}
	}
}
