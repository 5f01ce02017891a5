package app

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/kubeconfig"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newKubeconfig(o *options) *cobra.Command {
	var merge bool
	c := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the admin kubeconfig, or merge it into yours",
		Long: `Print the environment's admin kubeconfig. With --merge, add it to the first file of
$KUBECONFIG (or ~/.kube/config) as context orrery-ENV and make it the current one;
'orrery down' takes it out again.`,
		Example: `  orrery kubeconfig > kc && kubectl --kubeconfig kc get nodes
  orrery kubeconfig --merge`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if merge {
				return o.mergeKubeconfig(c.Context())
			}
			e, err := o.existing()
			if err != nil {
				return err
			}
			path, err := e.Kubeconfig(c.Context())
			if err != nil {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return fmt.Errorf("read the admin kubeconfig: %w", err)
			}
			_, err = o.out.Write(b)
			return err
		},
	}
	c.Flags().BoolVar(&merge, "merge", false, "add it to your own kubeconfig")
	return c
}

func (o *options) mergeKubeconfig(ctx context.Context) error {
	e, err := environment.Existing(o.change("kubeconfig", ui.Discard))
	if err != nil {
		return err
	}
	defer e.Close()
	target, err := kubeconfig.Default()
	if err != nil {
		return err
	}
	if err := e.MergeKubeconfig(ctx, target); err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.out, "Context %s is now the current one of %s.\n", e.ContextName(), target)
	return err
}
