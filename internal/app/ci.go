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
	c.AddCommand(newCIList(o), newCIRun(o), newCIBump(o))
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
				fmt.Fprintf(o.out, "%-18s  %s\n", j.Name, j.Short)
				if len(j.Of) > 0 {
					fmt.Fprintf(o.out, "%-18s    %s\n", "", strings.Join(j.Of, " "))
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
summary is added to it as a table. ORRERY_CI_LOGS names a folder for a log of each job.

The jobs release-* make and publish a release of HEAD, in the folder dist; without a tag they
rehearse it. docs/reference/ci.md has their variables.`,
		Example: `  orrery ci run build            # all of a pull request
  orrery ci run gitleaks --strict
  ORRERY_RELEASE_REGISTRY=127.0.0.1:5000/orrery orrery ci run release`,
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

func newCIBump(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "bump IMAGE DIGEST",
		Short: "Move an image to a digest in overlays and components",
		Long: `Move an image to a digest wherever a file under infra/k8s names it by one: entries of
kustomization.yaml, and references IMAGE[:TAG]@DIGEST. Nothing else in the files changes.
The files that changed are printed; 'orrery lock' comes after.`,
		Example: `  orrery ci bump docker.io/grafana/grafana sha256:b28bae15e219c998fb0e0424ed724930cc61b1f61fb404d47c862f9a23f9e572`,
		Args:    cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := o.runner(o.err)
			if err != nil {
				return err
			}
			changed, err := ci.Bump(r.Root, args[0], args[1])
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(o.out, append([]string{}, changed...))
			}
			for _, file := range changed {
				fmt.Fprintln(o.out, file)
			}
			if len(changed) == 0 {
				fmt.Fprintln(o.out, "it is there already; nothing changed")
			}
			return nil
		},
	}
}
