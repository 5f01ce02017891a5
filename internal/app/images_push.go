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
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/ui"
)

// pushParallel is how many images are pushed at a time; each sends four layers at once.
const pushParallel = 2

// pushedImage is one entry of `images push -o json`; its form is a contract.
type pushedImage struct {
	Image     string `json:"image"`
	Reference string `json:"reference,omitempty"` // by digest
	Error     string `json:"error,omitempty"`
}

func newImagesPush(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "push [IMAGE...]",
		Short: "Push images that are on this machine to the registry of orrery.yaml",
		Long: `Push images of the catalogue that are on this machine (built, imported from a bundle, pulled)
to images.registry, which clusters of driver: existing pull from; without names, all that are
here. What is attached to an image that was pulled or imported, signatures and documents, goes
with it. What was built here has nothing attached: what holds for it is its digest, which is
the lock's. What the registry has already is not sent again.

Credentials are those of docker login and podman login; images.caBundle is trusted. A registry
on this machine may speak plain HTTP.`,
		Example: `  orrery images build && orrery images push
  orrery images push nats -f clusters/prod.yaml`,
		ValidArgsFunction: o.completeImages,
		RunE:              func(c *cobra.Command, args []string) error { return pushImages(c.Context(), o, args) },
	}
}

func pushImages(ctx context.Context, o *options, names []string) error {
	sink := o.renderer()
	defer sink.Close()
	s, err := o.request(sink).Supply()
	if err != nil {
		return err
	}
	all := s.All().Images
	var images []catalog.Image
	for _, name := range names {
		img, ok := all[name]
		if !ok {
			return failure.Usagef("there is no image %q in the catalogue; there are: %v", name, slices.Sorted(maps.Keys(all)))
		}
		images = append(images, img)
	}
	if len(names) == 0 {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			_, here, err := s.CachedImage(ctx, all[name])
			if err != nil {
				return err
			}
			if here {
				images = append(images, all[name])
			} else {
				sink.Emit(ui.Event{Type: ui.TypeNotice, Message: "not on this machine, and not pushed: " + name})
			}
		}
	}
	rows, errs := make([]pushedImage, len(images)), make([]error, len(images))
	var g errgroup.Group
	g.SetLimit(pushParallel)
	for i, img := range images {
		g.Go(func() error {
			rows[i].Image = img.Name
			if rows[i].Reference, errs[i] = s.Publish(ctx, img); errs[i] != nil {
				rows[i].Error = errs[i].Error()
			}
			return nil
		})
	}
	_ = g.Wait()
	sink.Close()
	if o.json() {
		return errors.Join(printJSON(o.out, rows), errors.Join(errs...))
	}
	for _, r := range rows {
		if r.Error == "" {
			fmt.Fprintln(o.out, r.Reference)
		}
	}
	return errors.Join(errs...)
}
