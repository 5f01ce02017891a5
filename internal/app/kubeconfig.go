package app

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/kubeconfig"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newKubeconfig(o *options) *cobra.Command {
	var merge bool
	var life time.Duration
	c := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print a kubeconfig with a key that ends, or merge it into yours",
		Long: `Make a key to everything in the cluster and print it as a kubeconfig. With --merge, add it
to the first file of $KUBECONFIG (or ~/.kube/config) as context orrery-ENV, in place of the
key that is there, and make it the current one; 'orrery down' takes it out again.

The key ends after --ttl, a week if you do not say; 'orrery status' tells in good time when the
one in your own kubeconfig does. To end all that were given out at once, and for good:

  orrery kubectl delete clusterrolebinding orrery:people

The environment has to run. What is printed is for its owner alone: a file that the output
goes to is made readable by nobody else. The one key that neither ends nor can be taken away
is root's, in the environment's folder; 'orrery kubectl' uses it. Of a cluster that somebody
else made, the kubeconfig is the one that it was given.`,
		Example: `  orrery kubeconfig --ttl 8h > kc && kubectl --kubeconfig kc get nodes
  orrery kubeconfig --merge`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if merge {
				return o.mergeKubeconfig(c.Context(), life)
			}
			e, err := o.existing()
			if err != nil {
				return err
			}
			kubeconfig, ends, err := e.Issue(c.Context(), life)
			if err != nil {
				return err
			}
			o.closeOut()
			if _, err := o.out.Write(kubeconfig); err != nil {
				return err
			}
			if !ends.IsZero() {
				fmt.Fprintf(o.err, "This key ends at %s.\n", moment(ends))
			}
			return nil
		},
	}
	c.Flags().BoolVar(&merge, "merge", false, "add it to your own kubeconfig")
	c.Flags().DurationVar(&life, "ttl", 0, "how long the key lasts, such as 8h; at most a year (default: a week)")
	return c
}

// moment is a time for a person, in their time zone.
func moment(t time.Time) string { return t.Local().Format("2006-01-02 15:04 MST") }

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

func (o *options) mergeKubeconfig(ctx context.Context, life time.Duration) error {
	e, err := environment.Existing(o.change("kubeconfig", ui.Discard))
	if err != nil {
		return err
	}
	defer e.Close()
	target, err := kubeconfig.Default()
	if err != nil {
		return err
	}
	ends, err := e.MergeKubeconfig(ctx, target, life)
	if err != nil {
		return err
	}
	until := ""
	if !ends.IsZero() {
		until = fmt.Sprintf(" Its key ends at %s.", moment(ends))
	}
	_, err = fmt.Fprintf(o.out, "Context %s is now the current one of %s.%s\n", e.ContextName(), target, until)
	return err
}
