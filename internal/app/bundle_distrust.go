package app

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newBundleDistrust(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "distrust DIGEST|FILE...",
		Short: "Forget that a bundle was trusted on this machine",
		Long: `A bundle that was made here, or imported by a key that was trusted then, stays trusted by its
digest. This takes that back; what its key says counts again. Environments that were made
from it go on, and 'orrery images prune' removes what was imported when none is left.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			digests := slices.Clone(args)
			for i, arg := range args {
				if strings.HasPrefix(arg, "sha256:") {
					continue
				}
				b, err := supply.OpenBundle(arg)
				if err != nil {
					return err
				}
				digests[i] = b.Digest()
				b.Close()
			}
			gone, err := o.request(ui.Discard).Machine().Distrust(c.Context(), digests)
			if err != nil {
				return err
			}
			for _, d := range digests {
				if !slices.Contains(gone, d) {
					return failure.Usagef("bundle %s is not among those that are trusted here by their digest", d)
				}
				fmt.Fprintln(o.out, "no longer trusted by its digest:", d)
			}
			return nil
		},
	}
}
