package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newDown(o *options) *cobra.Command {
	var deleteData bool
	c := &cobra.Command{
		Use:   "down",
		Short: "Remove the environment and audit that nothing is left",
		Long: `Remove the environment: processes, namespaces, mounts, links, cgroups, state, its
entry in your kubeconfig. It works on half-made environments and after crashes, needs no
running supervisor, and ends in an audit that looks for leftovers.

From a cluster that somebody else made (driver: existing) it takes what the inventories of the
environment name, in reverse order, and nothing else: what was there before stays, namespaces
too, and so do claims of volumes, with their namespaces, unless --delete-data is given. What
stays is told.

What was compiled stays in the cache, which is safe to delete.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runDown(c.Context(), o, deleteData) },
	}
	c.Flags().BoolVar(&deleteData, "delete-data", false, "with driver: existing, delete the claims of volumes, and with them their data")
	return c
}

func runDown(ctx context.Context, o *options, deleteData bool) error {
	start := time.Now()
	sink := o.renderer()
	defer sink.Close()
	absent, err := o.nothingKept()
	if err != nil {
		return err
	}
	request := o.change(environment.VerbDown, sink)
	request.DeleteData = deleteData
	e, err := environment.Salvage(request)
	if err != nil {
		return err
	}
	defer e.Close()
	if e.Damage != nil { // a damaged state file must not keep anyone from removing the environment
		sink.Emit(ui.Event{Type: ui.TypeWarning, Message: e.Damage.Error()})
	}
	step := ui.Event{Type: ui.TypeStep, Step: "down", Phase: "teardown", State: ui.StateRunning}
	sink.Emit(step)
	// A removal that has begun is finished even after Ctrl-C: half of it helps nobody.
	leaks, err := e.Remove(context.WithoutCancel(ctx))
	step.State, step.Seconds = ui.StateDone, environment.Seconds(time.Since(start))
	if err != nil || len(leaks) > 0 {
		step.State = ui.StateFailed
	}
	sink.Emit(step)
	sink.Close()
	name := e.Spec.Name
	if o.json() {
		summary := map[string]any{"type": ui.TypeSummary, "environment": name, "seconds": step.Seconds, "leaks": append([]string{}, leaks...)}
		if e := printJSON(o.out, summary); e != nil {
			return e
		}
	} else {
		audited := "no process, namespace, mount, link, cgroup, BPF object, listener or file of it"
		if !e.Kind.Nodes {
			audited = "no inventory in the cluster, and no file of it"
		}
		if err == nil || len(leaks) > 0 {
			o.tellAudit(name, absent, audited, leaks, time.Since(start))
		}
	}
	if len(leaks) > 0 {
		err = errors.Join(err, fmt.Errorf("%d leftovers of environment %q", len(leaks), name))
	}
	return err
}

// nothingKept reports whether the environment has no folder.
func (o *options) nothingKept() (bool, error) { return o.request(ui.Discard).Absent() }

func (o *options) tellAudit(name string, absent bool, audited string, leaks []string, took time.Duration) {
	switch {
	case len(leaks) > 0:
		fmt.Fprintf(o.out, "Audit of environment %q found leftovers:\n", name)
		for _, l := range leaks {
			fmt.Fprintln(o.out, "  "+l)
		}
	case absent:
		fmt.Fprintf(o.out, "There was no environment %q. Audit: %s.\n", name, audited)
	default:
		fmt.Fprintf(o.out, "Environment %q is gone (%.1f s). Audit: %s is left.\n", name, took.Seconds(), audited)
	}
}

func newStop(o *options) *cobra.Command {
	g := grace{driver.DefaultGrace, false}
	c := &cobra.Command{
		Use:   "stop",
		Short: "End all processes and keep the state",
		Long: `End all processes of the environment and keep its state: 'orrery start' brings it back with
the same addresses and data. Pods end as they are used to, with preStop and SIGTERM, within
their grace period and at most as long as --grace says.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.lifecycle(c.Context(), "stop", lifecycle{grace: g.of()}, func(e *environment.Environment, ctx context.Context) error { return e.Driver.Stop(ctx) })
		},
	}
	g.flags(c)
	return c
}

// grace is how long pods have to end.
type grace struct {
	most time.Duration
	now  bool
}

func (g *grace) flags(c *cobra.Command) {
	c.Flags().DurationVar(&g.most, "grace", g.most, "how long pods have to end, at most")
	c.Flags().BoolVar(&g.now, "now", false, "end pods at once, as a power cut does")
	c.MarkFlagsMutuallyExclusive("grace", "now")
}

func (g *grace) of() time.Duration {
	if g.now {
		return 0
	}
	return max(g.most, 0)
}

// timeoutFlag is how long a start may take.
func timeoutFlag(c *cobra.Command, d *time.Duration) {
	c.Flags().DurationVar(d, "timeout", check.DefaultTimeout, "how long nodes and their API are waited for while nothing comes nearer")
}

func newStart(o *options) *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "start",
		Short: "Start what was stopped, or what a reboot ended",
		Long:  "Start the environment from its kept state, renew certificates that run out, and wait until all nodes are Ready.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.lifecycle(c.Context(), "start", lifecycle{timeout: timeout}, (*environment.Environment).Start)
		},
	}
	timeoutFlag(c, &timeout)
	return c
}

// lifecycle says how long a step may take.
type lifecycle struct{ timeout, grace time.Duration }

// lifecycle runs one step on an existing environment and says how long it took.
func (o *options) lifecycle(ctx context.Context, verb string, l lifecycle, do func(*environment.Environment, context.Context) error) error {
	start := time.Now()
	sink := o.renderer()
	defer sink.Close()
	request := o.change(verb, sink)
	request.Timeout, request.Grace = l.timeout, l.grace
	e, err := environment.Existing(request)
	if err != nil {
		return err
	}
	defer e.Close()
	step := ui.Event{Type: ui.TypeStep, Step: verb, Phase: "cluster", State: ui.StateRunning}
	sink.Emit(step)
	err = do(e, ctx)
	step.State, step.Seconds = ui.StateDone, environment.Seconds(time.Since(start))
	if err != nil {
		step.State, step.Error = ui.StateFailed, err.Error()
		err = fmt.Errorf("%s environment %q: %w", verb, e.Spec.Name, interruptedBy(context.Cause(ctx), err))
		if errors.Is(err, context.Canceled) {
			err = fmt.Errorf("%w\nlook at it: orrery status%s · to go on: orrery %s%s", err, e.Flag(), verb, e.Flag())
		}
	}
	sink.Emit(step)
	return err
}
