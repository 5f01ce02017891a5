package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/engine"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/statedir"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newDown(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the environment and audit that nothing is left",
		Long: `Remove the environment: processes, namespaces, mounts, links, cgroups, state, its
entry in your kubeconfig. It works on half-made environments and after crashes, needs no
running supervisor, and ends in an audit that looks for leftovers.

What was compiled stays in /var/cache/orrery, which is safe to delete.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runDown(c.Context(), o) },
	}
}

func runDown(ctx context.Context, o *options) error {
	start := time.Now()
	sink := o.renderer()
	defer sink.Close()
	s, err := o.attach(sink)
	if s == nil || errors.Is(err, engine.ErrNewer) { // what a newer orrery made, only it knows how to remove
		return err
	}
	if err != nil { // a damaged state file must not keep anyone from removing the environment
		sink.Emit(ui.Event{Type: ui.TypeWarning, Message: err.Error()})
	}
	_, statErr := os.Stat(s.stateDir)
	absent := os.IsNotExist(statErr)
	if err := s.lock("down"); err != nil {
		return err
	}
	sink.Emit(ui.Event{Type: ui.TypeStep, Step: "down", Phase: "teardown", State: ui.StateRunning})
	// A removal that has begun is finished even after Ctrl-C: half of it helps nobody.
	leaks, err := s.remove(context.WithoutCancel(ctx))
	state := ui.StateDone
	if err != nil || len(leaks) > 0 {
		state = ui.StateFailed
	}
	sink.Emit(ui.Event{Type: ui.TypeStep, Step: "down", Phase: "teardown", State: state, Seconds: seconds(time.Since(start))})
	sink.Close()
	if leaks == nil {
		leaks = []string{}
	}
	if o.json() {
		if e := printJSON(o.out, map[string]any{"type": ui.TypeSummary, "environment": s.spec.Name, "seconds": seconds(time.Since(start)), "leaks": leaks}); e != nil {
			return e
		}
	} else {
		switch {
		case len(leaks) > 0:
			fmt.Fprintf(o.out, "Audit of environment %q found leftovers:\n", s.spec.Name)
			for _, l := range leaks {
				fmt.Fprintln(o.out, "  "+l)
			}
		case absent:
			fmt.Fprintf(o.out, "There was no environment %q. Audit: no process, namespace, mount, link, cgroup, BPF object, listener or file of it.\n", s.spec.Name)
		default:
			fmt.Fprintf(o.out, "Environment %q is gone (%.1f s). Audit: no process, namespace, mount, link, cgroup, BPF object, listener or file of it is left.\n", s.spec.Name, time.Since(start).Seconds())
		}
	}
	if len(leaks) > 0 {
		err = errors.Join(err, fmt.Errorf("%d leftovers of environment %q", len(leaks), s.spec.Name))
	}
	return err
}

// remove deletes the environment and audits. It closes the session: the lock last, so that
// the audit sees nothing of an 'up' that waits.
func (s *session) remove(ctx context.Context) (leaks []string, err error) {
	errs := []error{s.unmerge(), s.driver.Delete(ctx), s.discard()}
	defer func() { err = errors.Join(err, s.close()) }()
	leaks, auditErr := s.driver.Audit(ctx)
	if sign.Remembered(s.signingDir()) {
		leaks = append(leaks, "entry of the kernel's keyring for "+s.signingDir())
	}
	return leaks, errors.Join(append(errs, auditErr)...)
}

// discard removes the state folder and the password of its key in the kernel's keyring (which
// a damaged journal may not name). The lock is held until the session is closed, which removes
// the folder above after the last environment.
func (s *session) discard() error {
	var err error
	if s.journal != nil {
		err, s.journal = s.journal.Close(), nil
	}
	return errors.Join(err, sign.Forget(s.signingDir()), statedir.Remove(s.stateDir))
}

// unmerge takes the environment out of kubeconfigs it was merged into.
func (s *session) unmerge() error {
	if s.journal == nil {
		return nil
	}
	var errs []error
	for _, e := range s.journal.Live() {
		if e.Kind == kubeconfigEffect {
			errs = append(errs, removeContext(e.ID, s.spec.Name))
			errs = append(errs, s.journal.Undone(driver.Effect{Kind: e.Kind, ID: e.ID}))
		}
	}
	return errors.Join(errs...)
}

func newStop(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "stop",
		Short: "End all processes and keep the state",
		Long:  "End all processes of the environment and keep its state: 'orrery start' brings it back with the same addresses and data.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.lifecycle(c.Context(), "stop", driver.Driver.Stop)
		},
	}
}

func newStart(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "start",
		Short: "Start what was stopped, or what a reboot ended",
		Long:  "Start the environment from its kept state, renew certificates that run out, and wait until all nodes are Ready.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return o.lifecycle(c.Context(), "start", func(d driver.Driver, ctx context.Context) error {
				if err := d.Prepare(ctx); err != nil {
					return err
				}
				if err := d.Ensure(ctx); err != nil {
					return err
				}
				return d.Ready(ctx)
			})
		},
	}
}

// lifecycle runs one step on an existing environment and says how long it took.
func (o *options) lifecycle(ctx context.Context, verb string, do func(driver.Driver, context.Context) error) error {
	start := time.Now()
	sink := o.renderer()
	defer sink.Close()
	s, err := o.attachLocked(verb, sink)
	if err != nil {
		return err
	}
	defer s.close()
	sink.Emit(ui.Event{Type: ui.TypeStep, Step: verb, Phase: "cluster", State: ui.StateRunning})
	if err := do(s.driver, ctx); err != nil {
		sink.Emit(ui.Event{Type: ui.TypeStep, Step: verb, Phase: "cluster", State: ui.StateFailed, Error: err.Error()})
		return fmt.Errorf("%s environment %q: %w", verb, s.spec.Name, err)
	}
	sink.Emit(ui.Event{Type: ui.TypeStep, Step: verb, Phase: "cluster", State: ui.StateDone, Seconds: seconds(time.Since(start))})
	return nil
}
