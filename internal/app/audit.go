package app

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/audit"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newAudit(o *options) *cobra.Command {
	severity, list := string(audit.Medium), false
	c := &cobra.Command{
		Use:   "audit",
		Short: "What is wrong with the security of the cluster, by which rule, and how to mend it",
		Long: `Look at the running cluster: flags of its programs as they really run, what kubelets say they are
configured to, owners and modes of files, certificates that end soon, workloads, access rules,
network policies, and values of Secrets that are in plain sight elsewhere. Nothing is changed.

What cannot be looked at, such as the control plane of a cluster that somebody else runs, is skipped
with the reason. What is let be is in infra/audit-exceptions.yaml, each with its reason; an exception
that matches nothing is a finding itself.

Exit status 0 when nothing was found at or above --severity, 1 when something was. What 'orrery down'
looks for at its end, leftovers, is another thing.`,
		Example: `  orrery audit
  orrery audit --severity high
  orrery audit -o sarif > audit.sarif
  orrery audit --list`,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{outputs: "sarif"},
		RunE: func(c *cobra.Command, _ []string) error {
			s := audit.Severity(severity)
			if s.Rank() < 0 {
				return failure.Usagef("--severity %s: want one of %v", severity, audit.Severities())
			}
			if list {
				return auditList(o)
			}
			return runAudit(c.Context(), o, s)
		},
	}
	c.Flags().StringVar(&severity, "severity", severity, "least severity that fails: low, medium, high or critical")
	c.Flags().BoolVar(&list, "list", false, "print the checks, and look at nothing")
	return c
}

func auditList(o *options) error {
	all := audit.All()
	if o.json() {
		return printJSON(o.out, all)
	}
	rows := [][]string{}
	for _, c := range all {
		rows = append(rows, []string{c.ID, string(c.Severity), c.Title, c.Reference})
	}
	return ui.Table(o.out, []string{"CHECK", "SEVERITY", "WHAT HAS TO BE", "REFERENCE"}, rows)
}

func runAudit(ctx context.Context, o *options, least audit.Severity) error {
	e, err := environment.Existing(o.request(ui.Discard))
	if err != nil {
		return err
	}
	defer e.Close()
	r, err := e.Audit(ctx)
	if err != nil {
		return fmt.Errorf("audit environment %q: %w", e.Spec.Name, err)
	}
	switch {
	case o.json():
		err = printJSON(o.out, r)
	case o.output == "sarif":
		var b []byte
		if b, err = r.SARIF(programVersion()); err == nil {
			_, err = fmt.Fprintf(o.out, "%s\n", b)
		}
	default:
		err = printAudit(o.out, r)
	}
	if err != nil {
		return err
	}
	if r.AtLeast(least) > 0 {
		return exitError(exitFailed)
	}
	return nil
}

func printAudit(w io.Writer, r audit.Report) error {
	rows := [][]string{}
	mend := []string{}
	for _, f := range r.Findings {
		rows = append(rows, []string{string(f.Severity), f.Check, f.Object, f.Detail, f.Reference})
		line := "  " + f.Check + ": " + f.Mend
		if len(mend) == 0 || mend[len(mend)-1] != line {
			mend = append(mend, line)
		}
	}
	if len(rows) > 0 {
		if err := ui.Table(w, []string{"SEVERITY", "CHECK", "OBJECT", "FOUND", "REFERENCE"}, rows); err != nil {
			return err
		}
		fmt.Fprintf(w, "\nTo mend:\n%s\n\n", strings.Join(mend, "\n"))
	}
	byReason := map[string]int{}
	order := []string{}
	for _, s := range r.Skipped {
		if byReason[s.Reason]++; byReason[s.Reason] == 1 {
			order = append(order, s.Reason)
		}
	}
	for _, why := range order {
		fmt.Fprintf(w, "skipped: %d checks: %s\n", byReason[why], why)
	}
	_, err := fmt.Fprintf(w, "%d found, %d excepted with a reason, %d checks passed, %d skipped\n",
		len(r.Findings), len(r.Excepted), len(r.Passed), len(r.Skipped))
	return err
}
