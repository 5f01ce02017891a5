package app

import (
	"cmp"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/ci"
	"github.com/orrery-dev/orrery/internal/failure"
)

func newDev(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "dev",
		Short: "For those who change orrery: hooks of the clone, tools, generated files",
	}
	hooks := &cobra.Command{
		Use:   "hooks",
		Short: "Checks before a commit, without pre-commit",
	}
	hooks.AddCommand(newHooksInstall(o), newHooksRun(o))
	c.AddCommand(hooks, newDevGenerate(o), newDevSetup(o))
	return c
}

func newHooksInstall(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "install",
		Short: "Write the hooks pre-commit and commit-msg of this clone",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := o.runner(o.err)
			if err != nil {
				return err
			}
			files, err := r.InstallHooks(c.Context())
			for _, f := range files {
				fmt.Fprintln(o.out, f)
			}
			return err
		},
	}
}

func newHooksRun(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "run HOOK [FILE]",
		Short: "Run a hook: pre-commit, or commit-msg FILE",
		Long: `Run what the hook of that name runs: on what is staged the format, plain text in
infra/secrets, keys (when gitleaks is compiled: tools/build gitleaks) and the copies of
workflows, and whether orrery.lock is what the tree says; on a message its form.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := o.runner(o.err)
			if err != nil {
				return err
			}
			if r.Self, err = os.Executable(); err != nil {
				return err
			}
			return r.Hook(c.Context(), args[0], args[1:])
		},
	}
}

func newDevGenerate(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "generate",
		Short: "Write .github anew from cicd/github",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			r, err := o.runner(o.err)
			if err != nil {
				return failure.Usage{Err: err}
			}
			return ci.Generate(r.Root)
		},
	}
}

func newDevSetup(o *options) *cobra.Command {
	var list bool
	c := &cobra.Command{
		Use:   "setup [TOOL...]",
		Short: "Compile the developer's tools that the folder tools pins, and say where they are",
		Long: `Compile tools from the source that the folder tools pins, unless that was done before: those
named, or without names those that hooks and gates use, half a minute each. "all" takes
minutes for each of the others. Exit status 1 when one could not be compiled.`,
		Example: `  orrery dev setup
  orrery dev setup cosign syft
  orrery dev setup --list`,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := o.runner(o.err)
			if err != nil {
				return err
			}
			var tools []ci.Tool
			if list {
				tools, err = r.Tools()
			} else {
				tools, err = r.Setup(c.Context(), args)
			}
			if err != nil {
				return err
			}
			if o.json() {
				err = printJSON(o.out, tools)
			}
			failed := false
			for _, t := range tools {
				failed = failed || t.Error != ""
				if !o.json() {
					where := cmp.Or(t.Path, t.Error, "not compiled")
					if list {
						where = t.Module
					}
					fmt.Fprintf(o.out, "%-14s %-12s %s\n", t.Name, t.Version, where)
				}
			}
			if err == nil && failed {
				return exitError(exitFailed)
			}
			return err
		},
	}
	c.Flags().BoolVar(&list, "list", false, "only say which tools are pinned")
	return c
}
