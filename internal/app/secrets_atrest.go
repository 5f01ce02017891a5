package app

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newSecretsRotateAtRest(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate-at-rest",
		Short: "Exchange the key that Secrets and ConfigMaps are encrypted with in etcd",
		Long: `Make a new key for what etcd holds of Secrets and ConfigMaps, write all of them anew under it, and
give the old key up. The environment runs, and its API answers all the time: every API server reads
with both keys before any writes with the new one, and the old key goes when etcd holds nothing under
it any more. API servers look for new keys once a minute, so it takes up to three minutes.

It can be interrupted at any point: the same command goes on from there. Servers that a person has
stopped read their keys when they start.

Snapshots that 'orrery etcd snapshot' took before can not be restored afterwards, since the key that
they need is gone: take another one.`,
		Example: `  orrery secrets rotate-at-rest
  orrery secrets rotate-at-rest -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := environment.Existing(o.change("secrets rotate-at-rest", ui.Discard))
			if err != nil {
				return err
			}
			defer e.Close()
			done, err := e.RotateAtRest(c.Context(), func(part string) {
				if !o.json() {
					fmt.Fprintln(o.out, part)
				}
			})
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(o.out, done)
			}
			_, err = fmt.Fprintf(o.out, "%s took the place of %s: etcd holds %d Secrets and ConfigMaps under it, %d were written anew.\n",
				done.To, done.From, done.Encrypted, done.Rewritten)
			return err
		},
	}
}
