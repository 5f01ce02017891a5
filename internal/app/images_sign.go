package app

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/sign"
)

func newImagesSign(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "sign [IMAGE...]",
		Short: "Make bills of materials and provenance of images anew, and sign them again",
		Long: `Make the bill of materials and the provenance of every image of the running environment that
was built here, or of those named, sign them with the environment's key and replace what is
attached in the mirror. 'orrery up' does that for what is new or not as it should be; this is
for afterwards: a corrected list of licences, doubt about what is attached.`,
		ValidArgsFunction: o.completeImages,
		RunE:              func(c *cobra.Command, args []string) error { return signImages(c.Context(), o, args) },
	}
}

// signedImage is one entry of `images sign -o json`; its form is a contract.
type signedImage struct {
	Image  string `json:"image"`
	Digest string `json:"digest"`
	// Documents, Signing and Seconds: to make both documents, to sign and attach them, and
	// both together, as measured.
	Documents float64 `json:"documents"`
	Signing   float64 `json:"signing"`
	Seconds   float64 `json:"seconds"`
}

func signImages(ctx context.Context, o *options, names []string) error {
	sink := o.renderer()
	defer sink.Close()
	s, err := o.attachLocked("images sign", sink)
	if err != nil {
		return err
	}
	defer s.close()
	p, err := s.platform(nil)
	if err != nil {
		return err
	}
	if p.builder == nil {
		return usagef("environment %q is made from a bundle, whose documents came with it: 'orrery up%s' signs what is not signed", s.spec.Name, s.envFlag())
	}
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(p.images))
		names = slices.DeleteFunc(names, func(name string) bool { return p.images[name].Registry != "" || p.lacking(name) })
	}
	key, err := p.signingKey(ctx)
	if err != nil {
		return err
	}
	if _, err := key.SignBlob(nil); err != nil { // opens it
		return err
	}
	w := &workshop{catalog: p.catalog, builder: p.builder}
	rows := []signedImage{}
	for _, name := range names {
		img, ok := p.images[name]
		if !ok || img.Registry != "" {
			return usagef("there is no image %q in environment %q that is built here", name, s.spec.Name)
		}
		built, ok, err := p.builder.CachedImage(ctx, img)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("image %s is not built here: 'orrery images build %s'", name, name)
		}
		start := time.Now()
		docs, err := w.documents(ctx, img)
		if err != nil {
			return err
		}
		made := time.Since(start)
		if err := sign.Renew(ctx, p.registry(), name, built.Digest, key, docs); err != nil {
			return err
		}
		rows = append(rows, signedImage{name, built.Digest, made.Seconds(), (time.Since(start) - made).Seconds(), time.Since(start).Seconds()})
	}
	sink.Close()
	if o.json() {
		return printJSON(o.out, rows)
	}
	for _, r := range rows {
		fmt.Fprintf(o.out, "%s@%s signed in %.0f ms\n", r.Image, r.Digest, r.Seconds*1000)
	}
	return nil
}
