package app

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
)

func newImagesBuild(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "build [IMAGE...]",
		Short:             "Build images, all of the catalogue when none is named; what is built already stays",
		ValidArgsFunction: o.completeImages,
		RunE: func(c *cobra.Command, args []string) error {
			sink := o.renderer()
			defer sink.Close()
			s, err := o.request(sink).Supply()
			if err != nil {
				return err
			}
			all := s.All()
			if len(args) == 0 {
				args = slices.Sorted(maps.Keys(all.Built()))
			}
			images := make([]catalog.Image, len(args))
			for i, name := range args {
				if images[i], err = all.Image(name); err != nil {
					return err
				}
			}
			built := make([]image.Built, len(args))
			g, ctx := errgroup.WithContext(c.Context())
			for i, img := range images {
				g.Go(func() error {
					var err error
					built[i], err = s.Image(ctx, img)
					return err
				})
			}
			if err := g.Wait(); err != nil {
				return err
			}
			sink.Close()
			if o.json() {
				return printJSON(o.out, built)
			}
			for _, b := range built {
				fmt.Fprintln(o.out, b.Reference())
			}
			return nil
		},
	}
}
