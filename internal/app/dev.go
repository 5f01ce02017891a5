package app

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/ci"
	"github.com/orrery-dev/orrery/internal/failure"
)

func newDev(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "dev",
		Short: "For those who change orrery: hooks of the clone, generated files",
	}
	hooks := &cobra.Command{
		Use:   "hooks",
		Short: "Checks before a commit, without pre-commit",
	}
	hooks.AddCommand(newHooksInstall(o), newHooksRun(o))
	c.AddCommand(hooks, newDevGenerate(o))
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
workflows; on a message its form.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := o.runner(o.err)
			if err != nil {
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
