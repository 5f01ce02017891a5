package app

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

func newKubectl(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [--env NAME] ARGS...",
		Short: "Run kubectl, from the cluster's own binary, against the environment",
		Example: `  orrery kubectl get pods -A
  orrery kubectl --env demo logs -n messaging nats-0`,
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			for len(args) > 0 { // only our own flag may come first; the rest is kubectl's
				if v, ok := strings.CutPrefix(args[0], "--env="); ok {
					o.env, args = v, args[1:]
				} else if args[0] == "--env" && len(args) > 1 {
					o.env, args = args[1], args[2:]
				} else {
					break
				}
			}
			s, err := o.attachExisting()
			if err != nil {
				return err
			}
			kubectl := filepath.Join(s.stateDir, "dist", "bin", "kubectl")
			cmd := exec.CommandContext(c.Context(), kubectl, args...)
			cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(s.stateDir, "kubeconfig"))
			cmd.Stdin, cmd.Stdout, cmd.Stderr = o.in, o.out, o.err
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			err = cmd.Run()
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				return exitError(max(exit.ExitCode(), exitFailed))
			}
			if err != nil {
				return fmt.Errorf("run kubectl: %w", err)
			}
			return nil
		},
	}
}
