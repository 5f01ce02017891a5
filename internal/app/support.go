package app

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newSupport(o *options) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "support",
		Short: "Collect state, logs and events in one archive, without keys or secrets",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			e, err := environment.Salvage(o.request(ui.Discard))
			if err != nil {
				return err
			}
			if file == "" {
				file = e.SupportFile()
			}
			if err := e.WriteSupport(c.Context(), file); err != nil {
				return err
			}
			_, err = fmt.Fprintln(o.out, file)
			return err
		},
	}
	c.Flags().StringVar(&file, "to", "", "archive to write (default: orrery-support-ENV-TIME.tar.gz here)")
	return c
}
