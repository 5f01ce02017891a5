package app

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/bundle"
	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newDoctor(o *options) *cobra.Command {
	var from bundleFlags
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look at this machine: what is missing, what will be installed, what is tight",
		Long: `Run the same preflight as 'orrery up' and change nothing. Failures (exit status 3)
would make up refuse; warnings would not; packages are what up would install.

Judged is what 'orrery up' with the same flags would make. An environment that --env names
and that exists is judged by what it was made with, unless -f names a file. Outside of a
repository the catalogue is that of --bundle, or of the one bundle that was imported.`,
		Example: `  orrery doctor
  orrery doctor --bundle orrery-linux-amd64.orrery --key orrery-linux-amd64.orrery.pub`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			e, release, err := o.judged(ctx, from)
			if err != nil {
				return err
			}
			defer release()
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
	from.add(c)
	return c
}

// judged is the environment that doctor looks at; release lets go of what it is read from.
func (o *options) judged(ctx context.Context, from bundleFlags) (e *environment.Environment, release func(), err error) {
	r := o.request(ui.Discard)
	release = func() {}
	if from.file != "" || from.key != "" {
		if r.Bundle, release, err = o.previewBundle(r, from); err != nil {
			return nil, nil, err
		}
	} else if _, err := r.Location().Root(); err != nil && r.Catalog == "" {
		if all := bundle.List(r.CacheDir); len(all) == 1 {
			r.Bundle = supply.InBundle(r.CacheDir, all[0].Digest())
		}
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	if r.Name != "" && r.File == "" {
		if e, err = environment.Attach(r); err != nil || e.Exists {
			return e, release, err
		}
	}
	e, err = environment.Open(ctx, r)
	return e, release, err
}
