package app

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/failure"
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
	e, err := environment.Existing(o.change("images sign", sink))
	if err != nil {
		return err
	}
	defer e.Close()
	p, err := e.Platform(environment.Selection{})
	if err != nil {
		return err
	}
	if _, err := e.Mirror(); err != nil {
		return failure.Usage{Err: err}
	}
	if !p.Supply.Builds() {
		return failure.Usagef("environment %q is made from a bundle, whose documents came with it:"+
			" 'orrery up%s' signs what is not signed", e.Spec.Name, e.Flag())
	}
	built := p.Parts.Built()
	if len(names) == 0 {
		names = slices.DeleteFunc(slices.Sorted(maps.Keys(built)), p.Lacking)
	}
	key, err := p.SigningKey(ctx)
	if err != nil {
		return err
	}
	if _, err := key.SignBlob(nil); err != nil { // opens it
		return err
	}
	rows := []signedImage{}
	for _, name := range names {
		img, ok := built[name]
		if !ok {
			return failure.Usagef("there is no image %q in environment %q that is built here", name, e.Spec.Name)
		}
		start := time.Now()
		var made time.Duration
		digest, err := p.Resign(ctx, img, func() { made = time.Since(start) })
		if err != nil {
			return err
		}
		rows = append(rows, signedImage{name, digest, made.Seconds(), (time.Since(start) - made).Seconds(), time.Since(start).Seconds()})
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
