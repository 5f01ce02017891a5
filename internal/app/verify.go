package app

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/plan"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newVerify(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "verify [component...]",
		Short: "Prove that the platform works by writing and reading real data",
		Long: `Run the smoke checks of the cluster and of every component, or of those named
("cluster" for the cluster itself). Every check writes or reads real data and cleans
up after itself. Exit status 1 when any check failed; a skipped check is not a success.`,
		Example: `  orrery verify
  orrery verify nats cluster
  orrery verify -o junit > verify.xml`,
		Annotations:       map[string]string{outputs: "junit"},
		ValidArgsFunction: o.completeComponents,
		RunE: func(c *cobra.Command, args []string) error {
			return runVerify(c.Context(), o, args)
		},
	}
}

func runVerify(ctx context.Context, o *options, names []string) error {
	machine := o.json() || o.output == "junit"
	live := ui.Choose(o.err, o.plain || machine, false)
	defer live.Close()
	e, err := environment.Existing(o.request(live))
	if err != nil {
		return err
	}
	p, err := e.Platform(environment.Selection{})
	if err != nil {
		return err
	}
	if err := p.LearnImages(ctx); err != nil {
		return err
	}
	if len(names) == 0 {
		names = p.CheckNames()
	}
	step := ui.Event{Type: ui.TypeStep, Step: "verify", Phase: plan.PhaseVerify, State: ui.StateRunning}
	if !machine {
		live.Emit(step)
	}
	results, err := p.Check(ctx, names, func(m string, done, total float64) {
		if !machine {
			live.Emit(ui.Event{Type: ui.TypeProgress, Step: step.Step, Phase: step.Phase, Message: m, Done: done, Total: total, Unit: "checks"})
		}
	})
	live.Close()
	if err != nil {
		return err
	}
	results = results.Sorted()
	switch {
	case o.json():
		err = printJSON(o.out, reportOf(results))
	case o.output == "junit":
		err = junit(o.out, results)
	default:
		err = printChecks(o.out, results)
	}
	if err != nil {
		return err
	}
	if results.Count(check.Failed) > 0 {
		return exitError(exitFailed)
	}
	return nil
}

func printChecks(w io.Writer, rs environment.CheckResults) error {
	rows := make([][]string, 0, len(rs))
	for _, r := range rs {
		rows = append(rows, []string{mark(r.State), r.Component, r.Name, fmt.Sprintf("%.1f s", r.Seconds), r.Detail})
	}
	if err := ui.Table(w, []string{"", "COMPONENT", "CHECK", "TIME", "DETAIL"}, rows); err != nil {
		return err
	}
	r := reportOf(rs)
	_, err := fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped\n", r.Passed, r.Failed, r.Skipped)
	return err
}

func mark(s check.State) string {
	switch s {
	case check.Succeeded:
		return "✓"
	case check.Failed:
		return "✗"
	}
	return "-"
}
