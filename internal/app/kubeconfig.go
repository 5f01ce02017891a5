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
'orrery down' takes it out again.

What is printed is a key to everything in the cluster: a file that the output goes to is made
readable by its owner only.`,
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
			o.closeOut()
			_, err = o.out.Write(b)
			return err
		},
	}
	c.Flags().BoolVar(&merge, "merge", false, "add it to your own kubeconfig")
	return c
}

// closeOut takes the file that the output goes to, if it is one, away from everybody but its
// owner: shells make it with the umask, which lets others read it.
func (o *options) closeOut() {
	f, ok := o.out.(*os.File)
	if !ok {
		return
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 == 0 {
		return
	}
	if err := f.Chmod(info.Mode().Perm() &^ 0o077); err != nil {
		fmt.Fprintf(o.err, "warning: others can read the file that this key to everything goes to, and this cannot be changed: %v\n", err)
	}
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
