package app

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newDoctor(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look at this machine: what is missing, what will be installed, what is tight",
		Long: `Run the same preflight as 'orrery up' and change nothing. Failures (exit status 3)
would make up refuse; warnings would not; packages are what up would install.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			e, err := environment.Open(ctx, o.request(ui.Discard))
			if err != nil {
				return err
			}
			p, err := e.Platform(environment.Selection{})
			if err != nil {
				return err
			}
			var results environment.CheckResults
			for _, cond := range p.PreflightConditions(ctx) {
				results = append(results, environment.RunCheck(ctx, cond))
			}
			if e.NetworkReason != "" {
				results = append(results, environment.CheckResult{Component: "host", Name: "network", State: check.Skipped, Detail: e.NetworkReason})
			}
			planned, err := p.Plan(ctx, true)
			if err != nil {
				return err
			}
			var cpu float64
			todo := p.ToBuild(planned.Plan)
			for _, b := range todo {
				cpu += b.CPUSeconds
			}
			missing := environment.MissingPackages(ctx, e.HostPrograms, todo)
			if o.json() {
				err = printJSON(o.out, map[string]any{"checks": results, "packages": append([]string{}, missing...), "builds": len(todo), "buildCPUSeconds": cpu})
			} else {
				rows := [][]string{}
				for _, r := range results {
					rows = append(rows, []string{mark(r.State), r.Name, r.Detail})
				}
				err = ui.Table(o.out, []string{"", "CHECK", "DETAIL"}, rows)
				if len(missing) > 0 {
					fmt.Fprintf(o.out, "\n'orrery up' will install these packages: %v\n", missing)
				}
				if len(todo) > 0 {
					fmt.Fprintf(o.out, "\n%d programs are still to be compiled: about %.0f CPU-seconds\n", len(todo), cpu)
				} else {
					fmt.Fprintln(o.out, "\nEverything is compiled already.")
				}
			}
			if err == nil && results.Count(check.Failed) > 0 {
				err = exitError(exitRefused)
			}
			return err
		},
	}
}
