package app

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
)

func newKubectl(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [--env NAME] ARGS...",
		Short: "Run kubectl, from the cluster's own binary, against the environment",
		Long:  "Runs kubectl, from the cluster's own binary, against the environment. 'orrery kubectl help' is kubectl's own help.",
		Example: `  orrery kubectl get pods -A
  orrery kubectl --env demo logs -n messaging nats-0`,
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			args = o.own(args)
			if len(args) == 1 && (args[0] == "--help" || args[0] == "-h") { // also before there is an environment
				return c.Help()
			}
			e, err := o.existing()
			if err != nil {
				return err
			}
			kubeconfig, err := e.Kubeconfig(c.Context())
			if err != nil {
				return err
			}
			kubectl, err := e.Kubectl()
			if err != nil {
				return err
			}
			cmd := exec.CommandContext(c.Context(), kubectl, args...)
			cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
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

// own takes what says which environment is meant, and not kubectl, from the beginning of args.
func (o *options) own(args []string) (rest []string) {
	into := map[string]*string{"--env": &o.env, "--file": &o.file, "-f": &o.file, "--catalog": &o.catalog}
	for len(args) > 0 {
		flag, value, whole := strings.Cut(args[0], "=")
		to := into[flag]
		switch {
		case to != nil && whole:
			*to, args = value, args[1:]
		case to != nil && len(args) > 1:
			*to, args = args[1], args[2:]
		default:
			return args
		}
	}
	return args
}
