package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/ui"
)

// maxLoad is the default of --max-size: more than any sensible image.
const maxLoad = "8Gi"

func newImagesLoad(o *options) *cobra.Command {
	var as, limit string
	c := &cobra.Command{
		Use:   "load FILE",
		Short: "Put images of your own into the environment's mirror",
		Long: `Push images to the mirror registry of a running environment: an OCI layout, as a
folder or a tarball, or what docker save writes; compressed with gzip or zstd, or not; "-"
is standard input. Of an image for several platforms it takes the one for this machine. It
prints the reference for manifests, one line for each image. They are not part of the lock.`,
		Example: `  docker save my/tool:v1 | orrery images load -
  orrery images load tool.tar.gz
  orrery images load layout/ --name tool:v1`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return loadImages(c.Context(), o, args[0], as, limit) },
	}
	c.Flags().StringVar(&limit, "max-size", maxLoad, "refuse an archive that holds more, such as 500Mi; 0 is no limit")
	c.Flags().StringVar(&as, "name", "", "NAME:TAG in the mirror (default: what the archive calls it)")
	return c
}

func loadImages(ctx context.Context, o *options, file, as, limit string) error {
	most, err := resource.ParseQuantity(limit)
	if err != nil || most.Sign() < 0 {
		return failure.Usagef("--max-size %s: want a number of bytes, such as 500Mi or 2G", limit)
	}
	said := file
	if file == "-" {
		said = "standard input"
	} else if _, err := os.Stat(file); err != nil {
		return failure.Usage{Err: err}
	}
	e, err := o.existing()
	if err != nil {
		return err
	}
	to, err := e.Mirror()
	if err != nil {
		return err
	}
	if file == "-" {
		if file, err = spool(ctx, o.in, most.Value()); err != nil {
			return err
		}
		defer os.Remove(file)
	}
	a, err := image.OpenArchive(ctx, file, most.Value())
	if large, ok := errors.AsType[*image.TooLargeError](err); ok {
		return failure.Usagef("open image %s: %w: allow more with --max-size", said, large)
	}
	if err != nil {
		return failure.Usagef("open image %s: %w", said, err)
	}
	defer a.Close()
	places := make([]place, len(a.Images))
	for i, one := range a.Images {
		if places[i], err = placeOf(to, said, as, one); err != nil {
			return err
		}
	}
	if as != "" && len(a.Images) > 1 {
		var names []string
		for _, one := range a.Images {
			names = append(names, strings.TrimSuffix(one.Name+":"+one.Tag, ":"))
		}
		return failure.Usagef("--name: %s holds %d images (%s), and one name is not enough: leave it out, or save one", said, len(names), strings.Join(names, ", "))
	}
	if s, err := o.request(ui.Discard).Supply(); err == nil {
		for _, at := range places {
			if _, taken := s.All().Images[at.repository]; taken {
				return failure.Usagef("%q is an image of the catalogue: load yours under another name with --name NAME:TAG", at.repository)
			}
		}
	}
	for i, one := range a.Images {
		at := places[i]
		loaded, err := one.Push(ctx, to, at.repository, at.tag)
		if err != nil {
			return fmt.Errorf("%w\nis the environment running? orrery status%s", err, e.Flag())
		}
		if loaded.Moved != "" {
			fmt.Fprintf(o.err, "warning: %s:%s was %s until now. Pods that run it keep it, and a node that has it does not ask again\n"+
				"(imagePullPolicy IfNotPresent): name the digest, as below, to have all run the same\n", at.repository, at.tag, loaded.Moved)
		}
		if o.json() {
			err = printJSON(o.out, loaded)
		} else {
			_, err = fmt.Fprintln(o.out, loaded.Reference)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// place is where an image goes in the mirror.
type place struct{ repository, tag string }

// placeOf is what a person, or else the archive, calls an image.
func placeOf(to mirror.Mirror, archive, as string, one image.Archived) (place, error) {
	if as == "" {
		if one.Name == "" {
			return place{}, failure.Usagef("%s does not say what the image is called: give it a name with --name NAME:TAG", archive)
		}
		return place{one.Name, cmp.Or(one.Tag, "latest")}, nil
	}
	if strings.Contains(as, "@") {
		return place{}, failure.Usagef("--name %s: a digest follows from the image and cannot be chosen: want NAME:TAG", as)
	}
	tag, err := name.NewTag(as, name.WithDefaultRegistry(mirror.Host))
	if err != nil {
		return place{}, failure.Usagef("--name %s: want NAME:TAG, in small letters: %w", as, err)
	}
	if host := tag.RegistryStr(); host != mirror.Host && host != to.Address {
		return place{}, failure.Usagef("--name %s: %s is another registry, and images are loaded into the mirror:"+
			" --name %s:%s", as, host, tag.RepositoryStr(), tag.TagStr())
	}
	return place{tag.RepositoryStr(), tag.TagStr()}, nil
}

// spool writes r to a file, which the caller removes: an archive is read more than once. A read
// that waits for a person is given up when ctx ends.
func spool(ctx context.Context, r io.Reader, most int64) (file string, err error) {
	f, err := os.CreateTemp("", "orrery-load-")
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			file, err = "", errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if most > 0 {
		r = io.LimitReader(r, most+1)
	}
	type copied struct {
		n   int64
		err error
	}
	done := make(chan copied, 1)
	go func() {
		n, err := io.Copy(f, r)
		done <- copied{n, err}
	}()
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case c := <-done:
		if c.err == nil && most > 0 && c.n > most {
			c.err = failure.Usagef("standard input: %w: allow more with --max-size", &image.TooLargeError{Size: c.n, Limit: most})
		}
		return f.Name(), c.err
	}
}
