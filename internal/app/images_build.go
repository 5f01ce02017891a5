package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
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

func newImagesPrune(o *options) *cobra.Command {
	var dryRun bool
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove cached binaries, images and bundles that nothing needs any more",
		Long: `Remove from the cache what is not of the catalogue as it is now: old versions, other
branches; and imported bundles that no environment was made from. Running environments keep
what they run. Everything can be built, or imported, again.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := prune(c.Context(), o, dryRun)
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(o.out, p)
			}
			verb := "removed"
			if dryRun {
				verb = "would remove"
			}
			for _, name := range slices.Concat(p.Binaries, p.Images, p.Bundles) {
				fmt.Fprintln(o.out, verb, name)
			}
			_, err = fmt.Fprintf(o.out, "%s %d binaries, %d images and %d bundles, %s\n", verb, len(p.Binaries), len(p.Images), len(p.Bundles), megabytes(p.Bytes))
			return err
		},
	}
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be removed")
	return c
}

// pruned is what `images prune -o json` prints; its form is a contract.
type pruned struct {
	image.Pruned
	Bundles []string `json:"bundles"` // "bundle DIGEST", and rests of imports
}

// prune cleans the cache up. Without a repository only bundles are looked at: what the
// catalogue would need is not known then.
func prune(ctx context.Context, o *options, dryRun bool) (pruned, error) {
	p := pruned{Pruned: image.Pruned{Binaries: []string{}, Images: []string{}}, Bundles: []string{}}
	r := o.request(ui.Discard)
	var err error
	if _, noRepository := supply.Folder(o.catalog).Root(); noRepository == nil || o.catalog != "" {
		var s *supply.Supply
		if s, err = r.Supply(); err == nil {
			p.Pruned, err = s.Prune(ctx, dryRun)
		}
	}
	gone, bundleErr := supply.PruneBundles(r.CacheDir, r.BundlesUsed, dryRun)
	for _, g := range gone {
		p.Bundles, p.Bytes = append(p.Bundles, "bundle "+g.Digest), p.Bytes+g.Bytes
	}
	return p, errors.Join(err, bundleErr)
}
