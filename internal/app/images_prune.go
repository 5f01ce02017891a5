package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newImagesPrune(o *options) *cobra.Command {
	var dryRun, mirror bool
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove what nothing needs any more from the cache, or from the environment's mirror",
		Long: `Remove from the cache what is not of the catalogue as it is now: old versions, other
branches; and imported bundles that no environment was made from. Running environments keep
what they run. Everything can be built, or imported, again.

With --mirror, remove from the mirror of the environment instead what no tag reaches: images
that a tag named until it was pushed anew, with what is attached to them, and what pushes
that were broken off have left. What a workload of the cluster names by digest stays, and
what its pods run, what the lock names and what images.allow lists. The environment has to
run. It waits for pushes to end, and pushes that begin wait for it; parts of one that was
broken off stay for an hour. Images of your own cannot be made again here: --dry-run first.`,
		Example: `  orrery images prune --dry-run
  orrery images prune --mirror --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if mirror {
				return pruneMirror(c.Context(), o, dryRun)
			}
			p, err := prune(c.Context(), o, dryRun)
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(o.out, p)
			}
			verb := removal(dryRun)
			for _, name := range slices.Concat(p.Binaries, p.Images, p.Bundles) {
				fmt.Fprintln(o.out, verb, name)
			}
			_, err = fmt.Fprintf(o.out, "%s %d binaries, %d images and %d bundles, %s\n",
				verb, len(p.Binaries), len(p.Images), len(p.Bundles), megabytes(p.Bytes))
			return err
		},
	}
	c.Flags().BoolVar(&mirror, "mirror", false, "clean up the mirror of the environment, not the cache")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be removed")
	return c
}

func removal(dryRun bool) string {
	if dryRun {
		return "would remove"
	}
	return "removed"
}

func pruneMirror(ctx context.Context, o *options, dryRun bool) error {
	e, err := o.existing()
	if err != nil {
		return err
	}
	p, err := e.PruneMirror(ctx, dryRun)
	if err != nil {
		return err
	}
	if o.json() {
		return printJSON(o.out, p)
	}
	verb := removal(dryRun)
	for _, m := range p.Manifests {
		was := "attached, or a part, or pushed by digest"
		if len(m.Tags) > 0 {
			was = "was " + strings.Join(m.Tags, ", ")
		}
		fmt.Fprintf(o.out, "%s %s (%s)\n", verb, m.Image, was)
	}
	freed := "freed"
	if dryRun {
		freed = "would free"
	}
	_, err = fmt.Fprintf(o.out, "%s %s: %d manifests, with all of theirs %d blobs; %s stay in the mirror\n",
		freed, megabytes(p.Bytes), len(p.Manifests), p.Blobs, megabytes(p.Left))
	return err
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
