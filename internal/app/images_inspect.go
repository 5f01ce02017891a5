package app

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/ui"
)

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func newImagesInspect(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "inspect IMAGE",
		Short:             "Layers, files, build settings and modules of an image",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeImages,
		RunE: func(c *cobra.Command, args []string) error {
			in, err := o.inspectImage(c.Context(), args[0])
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(o.out, in)
			}
			return printInspection(o.out, in)
		},
	}
}

// inspectImage reads an image: one that is built here, else as it came in a bundle or from a
// registry.
func (o *options) inspectImage(ctx context.Context, name string) (image.Inspection, error) {
	s, err := o.request(ui.Discard).Supply()
	if err != nil {
		return image.Inspection{}, err
	}
	if img, ok := s.All().Pulled()[name]; ok {
		return s.Inspect(ctx, img)
	}
	s, img, err := o.builtImage(ctx, name)
	if err != nil {
		return image.Inspection{}, err
	}
	return s.Inspect(ctx, img)
}

func printInspection(out io.Writer, in image.Inspection) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%s\n", in.Name, in.Version)
	fmt.Fprintf(&b, "  digest      %s\n  platform    %s\n  size        %s\n  user        %s\n  entrypoint  %s\n",
		in.Digest, in.Platform, megabytes(in.Size), in.User, strings.Join(in.Entrypoint, " "))
	for i, l := range in.Layers {
		fmt.Fprintf(&b, "\nlayer %d  %s  %s\n", i, l.Digest, megabytes(l.Size))
		for _, f := range l.Files {
			name := f.Path
			if f.Link != "" {
				name += " -> " + f.Link
			}
			fmt.Fprintf(&b, "  %04o  %-11s  %11d  %s\n", f.Mode, f.Owner, f.Size, name)
		}
	}
	for _, p := range in.Programs {
		fmt.Fprintf(&b, "\n%s  %s, %s\n", p.Path, p.Package, p.Go)
		for _, s := range p.Settings {
			fmt.Fprintf(&b, "  %s\n", s)
		}
		fmt.Fprintf(&b, "  %d modules\n", len(p.Modules))
		for _, m := range p.Modules {
			fmt.Fprintf(&b, "    %s %s %s", m.Path, m.Version, m.Sum)
			if m.Replaces != "" {
				fmt.Fprintf(&b, " (replaces %s)", m.Replaces)
			}
			fmt.Fprintln(&b)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
