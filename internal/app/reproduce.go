package app

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/supply"
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
			s, img, err := o.builtImage(c.Context(), args[0])
			if err != nil {
				return err
			}
			if err := s.NeedsSource("images"); err != nil {
				return err
			}
			r, err := s.ReproduceImage(c.Context(), img, o.err)
			if err != nil {
				return err
			}
			return o.tellReproduction(img.Name, r)
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
			s, bin, err := o.builtProgram(c.Context(), args[0])
			if err != nil {
				return err
			}
			if err := s.NeedsSource("programs"); err != nil {
				return err
			}
			r, err := s.ReproduceProgram(c.Context(), bin, o.err)
			if err != nil {
				return err
			}
			return o.tellReproduction(bin.Name, r)
		},
	}
}

func (o *options) tellReproduction(name string, r supply.Reproduction) error {
	var err error
	switch {
	case o.json():
		err = printJSON(o.out, r)
	case r.Reproducible:
		_, err = fmt.Fprintf(o.out, "%s is reproducible: %s both times\n", name, r.Digest)
	default:
		_, err = fmt.Fprintf(o.out, "%s is not reproducible: %s, then %s\nfirst difference: %s\n", name, r.Digest, r.Again, r.Mismatch)
	}
	if !o.json() && err == nil {
		for _, c := range r.Circumstances {
			fmt.Fprintln(o.out, "  "+c)
		}
	}
	if err == nil && !r.Reproducible {
		return exitError(exitFailed)
	}
	return err
}

// newImagesRebuild is what the second build runs, in a process of its own.
func newImagesRebuild(o *options) *cobra.Command {
	var cache string
	var program bool
	c := &cobra.Command{
		Use: "rebuild NAME", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			sink := ui.Choose(o.err, true, false)
			defer sink.Close()
			r := o.request(sink)
			cat, err := r.Location().Catalog()
			if err != nil {
				return err
			}
			made, err := supply.Rebuild(c.Context(), cat, args[0], program, cache, sink, r.Log)
			if err != nil {
				return err
			}
			return printJSON(o.out, made)
		},
	}
	c.Flags().StringVar(&cache, "cache", "", "")
	c.Flags().BoolVar(&program, "program", false, "")
	return c
}
