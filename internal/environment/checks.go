package environment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/check/smoke"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/flow"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// CheckResult is one line of `verify`; its JSON form is a contract.
type CheckResult struct {
	Component string      `json:"component"`
	Name      string      `json:"name"`
	State     check.State `json:"state"`
	Detail    string      `json:"detail"`
	Seconds   float64     `json:"seconds"`
}

// CheckResults are those of several checks.
type CheckResults []CheckResult

// RunCheck awaits one condition.
func RunCheck(ctx context.Context, c check.Condition) CheckResult {
	start := time.Now()
	r := check.Await(ctx, c, nil)
	return CheckResult{Component: c.Component, Name: c.Name, State: r.State, Detail: r.Message, Seconds: Seconds(cmp.Or(r.Took, time.Since(start)))}
}

// Seconds of a duration, to the millisecond.
func Seconds(d time.Duration) float64 {
	return float64(d.Round(time.Millisecond)) / float64(time.Second)
}

// Count is how many have this state.
func (rs CheckResults) Count(s check.State) int {
	n := 0
	for _, r := range rs {
		if r.State == s {
			n++
		}
	}
	return n
}

// state sums up: failed when one failed, skipped when there was nothing else.
func (rs CheckResults) state() (ui.State, error) {
	var errs []error
	for _, r := range rs {
		if r.State == check.Failed {
			errs = append(errs, fmt.Errorf("%s/%s: %s", r.Component, r.Name, r.Detail))
		}
	}
	switch {
	case len(errs) > 0:
		return ui.StateFailed, errors.Join(errs...)
	case len(rs) > 0 && rs.Count(check.Skipped) == len(rs):
		return ui.StateSkipped, nil
	}
	return ui.StateDone, nil
}

// Sorted orders by component, then name, with failures last, where the eye ends up.
func (rs CheckResults) Sorted() CheckResults {
	out := slices.Clone(rs)
	slices.SortStableFunc(out, func(a, b CheckResult) int {
		fa, fb := a.State == check.Failed, b.State == check.Failed
		if fa != fb {
			if fa {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(a.Component, b.Component), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Results are those of the checks that the steps of a run made, sorted.
func (p *Platform) Results() CheckResults {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.results.Sorted()
}

func (p *Platform) addResults(rs ...CheckResult) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.results = append(p.results, rs...)
}

// CheckNames are the subjects of all checks: the cluster and every component.
func (p *Platform) CheckNames() []string {
	return append([]string{plan.VerifyCluster}, p.ComponentNames()...)
}

// Check awaits the checks of the named components side by side ("cluster" for those of the
// cluster itself), and notes the results.
func (p *Platform) Check(ctx context.Context, names []string, report reporter) (CheckResults, error) {
	conditions, err := p.Conditions(ctx, names)
	if err != nil {
		return nil, err
	}
	done := 0
	return p.Await(ctx, conditions, nil, func(r CheckResult) {
		done++
		report(r.Name, float64(done), float64(len(conditions)))
	}), nil
}

// Await awaits conditions side by side and notes the results. begun, which may be nil, is told
// of each when it begins, ended when it has ended; one at a time.
func (p *Platform) Await(ctx context.Context, conditions []check.Condition, begun func(check.Condition), ended func(CheckResult)) CheckResults {
	results := make(CheckResults, len(conditions))
	var wg sync.WaitGroup
	var telling sync.Mutex
	for i, c := range conditions {
		if begun != nil {
			telling.Lock()
			begun(c)
			telling.Unlock()
		}
		wg.Go(func() {
			results[i] = RunCheck(ctx, c)
			telling.Lock()
			defer telling.Unlock()
			ended(results[i])
		})
	}
	wg.Wait()
	p.record(ctx, results)
	return results
}

// Conditions collects the checks of the named components.
func (p *Platform) Conditions(ctx context.Context, names []string) ([]check.Condition, error) {
	var all []check.Condition
	for _, name := range names {
		wanted := smoke.ClusterChecks
		if name == plan.VerifyCluster && !p.Kind.Nodes {
			others := slices.DeleteFunc(slices.Clone(wanted), func(c string) bool { return slices.Contains(smoke.SharedChecks, c) })
			all = append(all, skippedChecks(name, others, plan.Cause{Kind: plan.CauseCheck, Root: "whoever made the cluster looks after it"})...)
			wanted = smoke.SharedChecks
		}
		if name != plan.VerifyCluster {
			c, ok := p.Component(name)
			if !ok {
				return nil, failure.Usagef("component %q is not part of this environment: want cluster or one of %v", name, p.ComponentNames())
			}
			wanted = c.Checks()
			if why := p.LeftOut(name); !why.IsZero() {
				all = append(all, skippedChecks(name, wanted, why)...)
				continue
			}
		}
		conditions, err := p.conditions(ctx, name, wanted)
		if err != nil {
			return nil, err
		}
		all = append(all, conditions...)
	}
	return all, nil
}

// conditions are those that a component names, as its checks or as what makes it ready.
func (p *Platform) conditions(ctx context.Context, component string, names []string) ([]check.Condition, error) {
	if len(names) == 0 {
		return nil, nil
	}
	client, err := p.kube(ctx)
	if err != nil {
		return nil, err
	}
	boards, err := p.Dashboards()
	if err != nil {
		return nil, err
	}
	known := smoke.Checks(smoke.Env{
		Client: client, Spec: p.Spec, Nodes: p.topology(ctx), Images: p.references(), Observe: p.Driver.Observe, Driver: p.Driver, Flows: p.Flows(nil).Read,
		EnforcesPolicies: !slices.Contains([]string{spec.PluginPTP, spec.PluginRoutes}, p.Spec.Network.Plugin), // of what others made, it is tried
		Components:       p.ComponentNames(), Dashboards: boards, Jobs: p.smokeJobs(ctx),
	})
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

// smokeJobs are what the Jobs of components that bring their own checks are rendered from.
func (p *Platform) smokeJobs(ctx context.Context) (jobs []kube.RenderInput) {
	for _, c := range p.Components {
		if c.SmokeJob != nil {
			jobs = append(jobs, p.renderInput(ctx, c))
		}
	}
	return jobs
}

// skippedChecks are the checks of a component that is not there: none of them can pass.
func skippedChecks(component string, checks []string, why plan.Cause) []check.Condition {
	if len(checks) == 0 {
		checks = []string{"deployed"}
	}
	var conditions []check.Condition
	for _, name := range checks {
		conditions = append(conditions, check.Condition{
			Component: component, Name: name,
			Probe: func(context.Context) check.Result { return check.Skip("%s", why) },
		})
	}
	return conditions
}

// Flows of the environment, where its driver and its network know any. trouble, which may be
// nil, is told of nodes whose flows are missing or not whole.
func (e *Environment) Flows(trouble func(node string, err error)) flow.Source {
	return flow.Source{Trouble: trouble, Servers: func(ctx context.Context) (string, []flow.Server, error) {
		d, ok := e.Driver.(driver.FlowSource)
		if !ok {
			return "", nil, fmt.Errorf("%w: the %s driver knows of none", driver.ErrNoFlows, e.Kind.Name)
		}
		program, found, err := d.Flows(ctx)
		if errors.Is(err, driver.ErrNoFlows) {
			return "", nil, failure.Refused{Err: err}
		}
		if err != nil {
			return "", nil, err
		}
		var servers []flow.Server
		for _, f := range found {
			servers = append(servers, flow.Server{Node: f.Node, Address: f.Address})
		}
		return program, servers, nil
	}}
}
