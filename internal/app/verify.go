package app

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/check"
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
	s, err := o.attachExisting()
	if err != nil {
		return err
	}
	live := ui.Choose(o.err, o.plain || machine, false)
	defer live.Close()
	s.sink = live
	p, err := s.platform(nil)
	if err != nil {
		return err
	}
	if err := p.learnImages(ctx); err != nil {
		return err
	}
	if len(names) == 0 {
		names = append([]string{"cluster"}, p.componentNames()...)
	}
	if !machine {
		live.Emit(ui.Event{Type: ui.TypeStep, Step: "verify", Phase: "verify", State: ui.StateRunning})
	}
	results, err := p.runChecks(ctx, names, func(m string, done, total float64) {
		if !machine {
			live.Emit(ui.Event{Type: ui.TypeProgress, Step: "verify", Phase: "verify", Message: m, Done: done, Total: total, Unit: "checks"})
		}
	})
	live.Close()
	if err != nil {
		return err
	}
	results = results.sorted()
	switch {
	case o.json():
		err = printJSON(o.out, results.report())
	case o.output == "junit":
		err = results.junit(o.out)
	default:
		err = printChecks(o.out, results)
	}
	if err != nil {
		return err
	}
	if results.count(check.Failed) > 0 {
		return exitError(exitFailed)
	}
	return nil
}

func printChecks(w io.Writer, rs checkResults) error {
	rows := make([][]string, 0, len(rs))
	for _, r := range rs {
		rows = append(rows, []string{mark(r.State), r.Component, r.Name, fmt.Sprintf("%.1f s", r.Seconds), r.Detail})
	}
	if err := ui.Table(w, []string{"", "COMPONENT", "CHECK", "TIME", "DETAIL"}, rows); err != nil {
		return err
	}
	r := rs.report()
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

// sorted orders by component, then name, with failures last, where the eye ends up.
func (rs checkResults) sorted() checkResults {
	out := slices.Clone(rs)
	slices.SortStableFunc(out, func(a, b checkResult) int {
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
