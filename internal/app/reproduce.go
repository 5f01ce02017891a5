package app

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/ui"
)

const reproduceHelp = `from a copy of the repository in another folder, with an empty build cache and,
as root, by a user without a name and out of an empty module cache; with another umask,
time zone and locale. Then compare. Exit status 1 when a byte differs; the first such file
and offset are named. It takes as long as a first build and leaves nothing behind.`

func newImagesReproduce(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "reproduce IMAGE",
		Short:             "Build an image again under other circumstances and compare it byte for byte",
		Long:              "Build an image a second time: " + reproduceHelp,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeImages,
		RunE: func(c *cobra.Command, args []string) error {
			w, img, err := o.builtImage(c.Context(), args[0])
			if err != nil {
				return err
			}
			first, err := w.builder.Image(c.Context(), img)
			if err != nil {
				return err
			}
			return o.reproduce(c.Context(), w, img.Name, false, first.Digest, func(second rebuilt) (*build.Mismatch, error) {
				return image.Compare(first, second.image())
			})
		},
	}
}

func newProgramsReproduce(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "reproduce PROGRAM",
		Short:             "Build a program of the nodes again under other circumstances and compare it byte for byte",
		Long:              "Build a program of the nodes a second time: " + reproduceHelp,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completePrograms,
		RunE: func(c *cobra.Command, args []string) error {
			w, bin, err := o.builtProgram(c.Context(), args[0])
			if err != nil {
				return err
			}
			path, err := w.builder.Binary(c.Context(), bin)
			if err != nil {
				return err
			}
			first, err := w.builder.Describe(c.Context(), bin)
			if err != nil {
				return err
			}
			return o.reproduce(c.Context(), w, bin.Name, true, "sha256:"+first.SHA256, func(second rebuilt) (*build.Mismatch, error) {
				return build.CompareFiles(path, second.File)
			})
		},
	}
}

// reproduction is what `images reproduce -o json` and `programs reproduce -o json` print; its
// form is a contract.
type reproduction struct {
	Image        string          `json:"image,omitempty"`
	Program      string          `json:"program,omitempty"`
	Digest       string          `json:"digest"`
	Again        string          `json:"again"` // digest of the second build
	Reproducible bool            `json:"reproducible"`
	Mismatch     *build.Mismatch `json:"mismatch,omitempty"`
	// Other circumstances of the second build, for people.
	Circumstances []string `json:"circumstances"`
}

// reproduce builds name elsewhere and says whether the result has this digest.
func (o *options) reproduce(ctx context.Context, w *workshop, name string, program bool, digest string, compare func(rebuilt) (*build.Mismatch, error)) error {
	e, err := newElsewhere(ctx, w)
	if err != nil {
		return err
	}
	defer e.remove()
	second, err := e.build(ctx, o, name, program)
	if err != nil {
		return err
	}
	r := reproduction{Image: name, Digest: digest, Again: second.Digest, Reproducible: digest == second.Digest, Circumstances: e.circumstances}
	if program {
		r.Image, r.Program = "", name
	}
	if !r.Reproducible {
		if r.Mismatch, err = compare(second); err != nil {
			return err
		}
	}
	switch {
	case o.json():
		err = printJSON(o.out, r)
	case r.Reproducible:
		_, err = fmt.Fprintf(o.out, "%s is reproducible: %s both times\n", name, r.Digest)
	default:
		_, err = fmt.Fprintf(o.out, "%s is not reproducible: %s, then %s\nfirst difference: %s\n", name, r.Digest, r.Again, r.Mismatch)
	}
	if !o.json() && err == nil {
		for _, c := range e.circumstances {
			fmt.Fprintln(o.out, "  "+c)
		}
	}
	if err == nil && !r.Reproducible {
		return exitError(exitFailed)
	}
	return err
}

// rebuilt is what the second build made.
type rebuilt struct {
	Digest  string `json:"digest"`
	Version string `json:"version"`
	Layout  string `json:"layout,omitempty"` // of an image
	File    string `json:"file,omitempty"`   // of a program
}

func (r rebuilt) image() image.Built {
	return image.Built{Name: "again", Version: r.Version, Digest: r.Digest, Layout: r.Layout}
}

// newImagesRebuild is what the second build runs, in a process of its own.
func newImagesRebuild(o *options) *cobra.Command {
	var cache string
	var program bool
	c := &cobra.Command{
		Use: "rebuild NAME", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := o.rebuild(c.Context(), args[0], cache, program)
			if err != nil {
				return err
			}
			return printJSON(o.out, r)
		},
	}
	c.Flags().StringVar(&cache, "cache", "", "")
	c.Flags().BoolVar(&program, "program", false, "")
	return c
}

func (o *options) rebuild(ctx context.Context, name, cache string, program bool) (r rebuilt, err error) {
	cat, err := o.loadCatalog()
	if err != nil {
		return r, err
	}
	sink := ui.Choose(o.err, true, false)
	defer sink.Close()
	b, err := image.NewBuilder(build.Options{CacheDir: cache, RepoRoot: cat.Root, Sink: sink, Log: o.logger(), Env: []string{"LANG=tr_TR.UTF-8", "LC_COLLATE=tr_TR.UTF-8"}})
	if err != nil {
		return r, err
	}
	w := &workshop{catalog: cat, images: map[string]catalog.Image{cat.Distribution.Sandbox.Name: cat.Distribution.Sandbox}}
	if program {
		bin, err := w.nodeProgram(name)
		if err != nil {
			return r, err
		}
		if r.File, err = b.Binary(ctx, bin); err != nil {
			return r, err
		}
		d, err := b.Describe(ctx, bin)
		r.Digest, r.Version = "sha256:"+d.SHA256, bin.Version
		return r, err
	}
	for _, c := range cat.Components {
		for _, img := range c.Images {
			w.images[img.Name] = img
		}
	}
	img, err := w.image(name)
	if err != nil {
		return r, err
	}
	built, err := b.Image(ctx, img)
	r.Digest, r.Version, r.Layout = built.Digest, built.Version, filepath.Clean(built.Layout)
	return r, err
}
