package app

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/ci"
	"github.com/orrery-dev/orrery/internal/supply"
)

func newLockUpdate(o *options) *cobra.Command {
	var noLock bool
	c := &cobra.Command{
		Use:   "update [MODULE]",
		Short: "Take the newest version of a module that builds, passes its tests and has no known vulnerability",
		Long: `Take, wherever a go.mod of this clone requires MODULE itself, the newest version (of three, from
the newest down) with which that folder builds, passes its tests and has no vulnerability
that is called; without MODULE, all that the command line requires. A go.mod of which nothing
came is as it was. What was left alone is named with the reason, and so is a check that could not
be made.

When something changed that the platform is compiled from, orrery.lock is written anew as
'orrery lock' does, which compiles it.`,
		Example: `  orrery lock update golang.org/x/net
  orrery lock update --no-lock -o json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return updateModules(c.Context(), o, strings.Join(args, ""), noLock)
		},
	}
	c.Flags().BoolVar(&noLock, "no-lock", false, "leave orrery.lock as it is")
	return c
}

func updateModules(ctx context.Context, o *options, module string, noLock bool) error {
	r, err := o.runner(o.err)
	if err != nil {
		return err
	}
	rows, err := r.Update(ctx, module)
	if err != nil {
		return err
	}
	platform := false
	for _, u := range rows {
		platform = platform || u.From != u.To && (strings.HasPrefix(u.In, "infra/") || strings.HasPrefix(u.In, "apps/"))
	}
	if o.json() {
		err = printJSON(o.out, append([]ci.Updated{}, rows...))
	} else {
		for _, u := range rows {
			said := u.From + " -> " + u.To
			if u.From == u.To {
				said = u.From + " stays"
			}
			fmt.Fprintf(o.out, "%s: %s %s\n", u.In, u.Module, said)
			for _, why := range append(u.Left, u.Notes...) {
				fmt.Fprintf(o.out, "  %s\n", why)
			}
		}
	}
	if err != nil || noLock || !platform {
		return err
	}
	if o.json() { // one document
		to := *o
		to.out, to.output = o.err, "text"
		o = &to
	}
	return writeLock(ctx, o, supply.LockTarget{})
}
