package app

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/ci"
)

func newCI(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "ci",
		Short: "What the workflows run, on this machine: list the jobs, run them",
	}
	c.AddCommand(newCIList(o), newCIRun(o))
	return c
}

// runner is for the clone that the person is in.
func (o *options) runner(out io.Writer) (*ci.Runner, error) {
	at := "."
	if o.catalog != "" {
		at = o.catalog
	}
	root, err := ci.Root(at)
	return &ci.Runner{Root: root, Out: out}, err
}

func newCIList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "The jobs, and of which others they consist",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if o.json() {
				return printJSON(o.out, ci.Jobs())
			}
			for _, j := range ci.Jobs() {
				fmt.Fprintf(o.out, "%-12s  %s\n", j.Name, j.Short)
				if len(j.Of) > 0 {
					fmt.Fprintf(o.out, "%-12s    %s\n", "", strings.Join(j.Of, " "))
				}
			}
			return nil
		},
	}
}

func newCIRun(o *options) *cobra.Command {
	var strict bool
	c := &cobra.Command{
		Use:   "run JOB",
		Short: "Run a job, or all of which it consists, and say what passed, failed and was skipped",
		Long: `Run a job in the clone that this folder is in. It is what the workflow of that name runs.
The summary says for each job passed, failed or skipped and why; what was skipped is never
counted as passed, and with --strict it fails. When GITHUB_STEP_SUMMARY names a file, the
summary is added to it as a table.`,
		Example: `  orrery ci run build            # all of a pull request
  orrery ci run gitleaks --strict`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			out := o.out
			if o.json() {
				out = o.err
			}
			r, err := o.runner(out)
			if err != nil {
				return err
			}
			results, err := r.Run(c.Context(), args[0])
			if err != nil {
				return err
			}
			if err := stepSummary(results); err != nil {
				return err
			}
			if o.json() {
				if err := printJSON(o.out, results); err != nil {
					return err
				}
			} else {
				fmt.Fprintln(o.out, "\n== summary")
				ci.Summary(o.out, results, false)
			}
			if ci.Bad(results, strict) {
				return exitError(exitFailed)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&strict, "strict", false, "what is skipped fails")
	return c
}

func stepSummary(results []ci.Result) error {
	name := os.Getenv("GITHUB_STEP_SUMMARY")
	if name == "" {
		return nil
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write the summary of the workflow: %w", err)
	}
	ci.Summary(f, results, true)
	return f.Close()
}
