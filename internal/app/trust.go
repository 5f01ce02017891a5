package app

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newTrust(o *options) *cobra.Command {
	var remove, show bool
	c := &cobra.Command{
		Use:   "trust",
		Short: "Have this host trust the environment's certificates, or no longer",
		Long: `Add the certificate authority of the environment to those that this host trusts, so that
programs here believe its certificates. Nothing else does this: 'orrery up' never touches the
host's store. With --remove, and by 'orrery down', it is taken out again.

The authority may sign for names within the cluster and for this host itself (svc,
cluster.local, localhost, 127.0.0.0/8), and for no name of the internet. Its key never leaves
the cluster.`,
		Example: `  orrery trust
  orrery trust --print > ca.crt
  orrery trust --remove`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if remove && show {
				return failure.Usagef("--print and --remove: give one of them")
			}
			if show {
				e, err := o.existing()
				if err != nil {
					return err
				}
				certificate, err := e.Authority(c.Context())
				if err != nil {
					return err
				}
				_, err = o.out.Write(certificate)
				return err
			}
			e, err := environment.Existing(o.change("trust", ui.Discard))
			if err != nil {
				return err
			}
			defer e.Close()
			if remove {
				removed, err := e.Distrust(c.Context())
				if err != nil {
					return err
				}
				text := "This host does not trust the environment's authority any more."
				if !removed {
					text = "This host was never told to trust the environment's authority: nothing to remove."
				}
				_, err = fmt.Fprintln(o.out, text)
				return err
			}
			file, err := e.Trust(c.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(o.out, "This host trusts the environment's authority (%s) until `orrery trust --remove` or `orrery down`.\n", file)
			return err
		},
	}
	c.Flags().BoolVar(&remove, "remove", false, "take it out again")
	c.Flags().BoolVar(&show, "print", false, "print the certificate, and change nothing")
	return c
}
