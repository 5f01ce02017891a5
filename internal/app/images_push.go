package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/sign"
	"github.com/orrery-dev/orrery/internal/ui"
)

// pushParallel is how many images are pushed at a time; each sends four layers at once.
const pushParallel = 2

// pushedImage is one entry of `images push -o json`; its form is a contract.
type pushedImage struct {
	Image     string `json:"image"`
	Reference string `json:"reference,omitempty"` // by digest
	// Signer is the fingerprint of the key that signed it now; none when who built it did.
	Signer string `json:"signer,omitempty"`
	Error  string `json:"error,omitempty"`
}

func newImagesPush(o *options) *cobra.Command {
	var key string
	c := &cobra.Command{
		Use:   "push [IMAGE...]",
		Short: "Push images that are on this machine to the registry of orrery.yaml, and sign them",
		Long: `Push images of the catalogue that are on this machine (built, imported from a bundle, pulled)
to images.registry, which clusters of driver: existing pull from; without names, all that are
here. Each is signed, and its bill of materials and provenance are attached, signed too, where
cosign finds them ('orrery images verify' too). One that was pulled has the signatures of who
built it, which go with it. What the registry has already is not sent again.

Without --key, this machine's own key signs, which is made at first use. Other machines, and with
--key this one, need the public half in images.trustedKeys to verify.

Credentials are those of docker login and podman login; images.caBundle is trusted. A registry
on this machine may speak plain HTTP. One that does not list what refers to an image (OCI's
referrers API) gets the list under a tag.`,
		Example: `  orrery images build && orrery images push
  orrery images push nats -f clusters/prod.yaml
  orrery images push --key release/cosign.key`,
		ValidArgsFunction: o.completeImages,
		RunE:              func(c *cobra.Command, args []string) error { return pushImages(c.Context(), o, key, args) },
	}
	c.Flags().StringVar(&key, "key", "", "private key (cosign.key) to sign with; its password is in ORRERY_KEY_PASSWORD")
	return c
}

func pushImages(ctx context.Context, o *options, keyFile string, names []string) error {
	sink := o.renderer()
	defer sink.Close()
	request := o.request(sink)
	want, err := request.Spec()
	if err != nil {
		return err
	}
	s, err := request.Supply()
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
	key := sync.OnceValues(func() (*sign.Key, error) {
		k, err := request.Machine().Key(ctx, keyFile, want.Images)
		if err == nil {
			tellKey(sink, k)
		}
		return k, err
	})
	rows, errs := make([]pushedImage, len(images)), make([]error, len(images))
	var g errgroup.Group
	g.SetLimit(pushParallel)
	for i, img := range images {
		g.Go(func() error {
			rows[i].Image = img.Name
			reference, signed, err := s.Publish(ctx, img, key)
			if err != nil {
				rows[i].Error, errs[i] = err.Error(), err
				return nil
			}
			rows[i].Reference = reference
			if signed {
				k, _ := key() // which signed
				rows[i].Signer = k.Public().Fingerprint()
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
