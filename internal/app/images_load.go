package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/ui"
)

// maxLoad is the default of --max-size: more than any sensible image.
const maxLoad = "8Gi"

func newImagesLoad(o *options) *cobra.Command {
	var as, limit string
	c := &cobra.Command{
		Use:   "load FILE",
		Short: "Put an image of your own into the environment's mirror",
		Long: `Push an image to the mirror registry of a running environment: an OCI layout, as a
folder or a tarball, or what docker save writes; compressed or not. It prints the
reference for manifests. The image is not part of the lock.`,
		Example: `  docker save my/tool:v1 | gzip > tool.tar.gz
  orrery images load tool.tar.gz
  orrery images load layout/ --name tool:v1`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return loadImage(c.Context(), o, args[0], as, limit) },
	}
	c.Flags().StringVar(&limit, "max-size", maxLoad, "refuse an archive that holds more, such as 500Mi; 0 is no limit")
	c.Flags().StringVar(&as, "name", "", "NAME:TAG in the mirror (default: what the archive calls it)")
	return c
}

func loadImage(ctx context.Context, o *options, file, as, limit string) error {
	most, err := resource.ParseQuantity(limit)
	if err != nil || most.Sign() < 0 {
		return failure.Usagef("--max-size %s: want a number of bytes, such as 500Mi or 2G", limit)
	}
	if _, err := os.Stat(file); err != nil {
		return failure.Usage{Err: err}
	}
	e, err := o.existing()
	if err != nil {
		return err
	}
	a, err := image.OpenArchive(ctx, file, most.Value())
	if large, ok := errors.AsType[*image.TooLargeError](err); ok {
		return failure.Usagef("open image %s: %w: allow more with --max-size", file, large)
	}
	if err != nil {
		return failure.Usage{Err: err}
	}
	defer a.Close()
	name, tag := a.Name, a.Tag
	if as != "" {
		name, tag, _ = strings.Cut(as, ":")
	}
	if name == "" {
		return failure.Usagef("%s does not say what the image is called: give it a name with --name NAME:TAG", file)
	}
	if s, err := o.request(ui.Discard).Supply(); err == nil {
		if _, taken := s.All().Images[name]; taken {
			return failure.Usagef("%q is an image of the catalogue: load yours under another name with --name NAME:TAG", name)
		}
	}
	mirror, err := e.Mirror()
	if err != nil {
		return err
	}
	ref, err := a.Push(ctx, mirror, name, cmp.Or(tag, "latest"))
	if err != nil {
		return fmt.Errorf("%w\nis the environment running? orrery status%s", err, e.Flag())
	}
	if o.json() {
		return printJSON(o.out, map[string]string{"reference": ref})
	}
	_, err = fmt.Fprintln(o.out, ref)
	return err
}
