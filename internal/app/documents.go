package app

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/supply"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newImagesSBOM(o *options) *cobra.Command {
	return o.imageDocument(supply.SBOMType, &cobra.Command{
		Use:   "sbom IMAGE",
		Short: "Print the bill of materials of an image: CycloneDX 1.6 JSON",
		Long: `Print what an image consists of, as CycloneDX 1.6 JSON: its programs, their Go modules
with hash and licence, and every other file. It comes from what the programs say of
themselves, and is the same whenever the image is. A licence that is not recognised, or
that infra/licences.yaml does not allow, is an error.`,
	})
}

func newImagesProvenance(o *options) *cobra.Command {
	return o.imageDocument(supply.ProvenanceType, &cobra.Command{
		Use:   "provenance IMAGE",
		Short: "Print how an image was made: SLSA provenance v1 in an in-toto statement",
		Long: `Print how an image was made: an in-toto statement with SLSA provenance v1. It names the
entry of the catalogue, every module that is linked in and the Go toolchain, each with its
hash. What is built on this machine is SLSA build level 1, and the statement says so. In
the mirror of an environment it is signed by the environment's key.`,
	})
}

func newProgramsSBOM(o *options) *cobra.Command {
	return o.programDocument(supply.SBOMType, &cobra.Command{
		Use:   "sbom PROGRAM",
		Short: "Print the bill of materials of a program of the nodes: CycloneDX 1.6 JSON",
		Long: `Print what a program of the nodes consists of, as CycloneDX 1.6 JSON: its Go modules with
hash and licence, and the C libraries that are linked into it. A licence that is not
recognised, or that infra/licences.yaml does not allow, is an error.`,
	})
}

func newProgramsProvenance(o *options) *cobra.Command {
	return o.programDocument(supply.ProvenanceType, &cobra.Command{
		Use:   "provenance PROGRAM",
		Short: "Print how a program of the nodes was made: SLSA provenance v1 in an in-toto statement",
		Long: `Print how a program of the nodes was made: an in-toto statement with SLSA provenance v1
about the file, at SLSA build level 1. An environment signs it before its nodes start; see
'orrery programs verify'.`,
	})
}

// imageDocument completes a command that prints one document about one image. Out of a bundle
// it is the one that came in it.
func (o *options) imageDocument(kind string, c *cobra.Command) *cobra.Command {
	c.Args = cobra.ExactArgs(1)
	c.ValidArgsFunction = o.completeImages
	c.RunE = func(c *cobra.Command, args []string) error {
		s, img, err := o.builtImage(c.Context(), args[0])
		if err != nil {
			return err
		}
		doc, err := s.Document(c.Context(), img, kind)
		if err != nil {
			return err
		}
		_, err = o.out.Write(doc)
		return err
	}
	return c
}

// programDocument is imageDocument for a program of the nodes.
func (o *options) programDocument(kind string, c *cobra.Command) *cobra.Command {
	c.Args = cobra.ExactArgs(1)
	c.ValidArgsFunction = o.completePrograms
	c.RunE = func(c *cobra.Command, args []string) error {
		s, bin, err := o.builtProgram(c.Context(), args[0])
		if err != nil {
			return err
		}
		doc, err := s.ProgramDocument(c.Context(), bin, kind)
		if err != nil {
			return err
		}
		_, err = o.out.Write(doc)
		return err
	}
	return c
}

// builtImage finds an image, and builds it if it is not built, showing progress on standard
// error: standard output is for what was asked. Out of a bundle nothing is built.
func (o *options) builtImage(ctx context.Context, name string) (*supply.Supply, catalog.Image, error) {
	sink := ui.Choose(o.err, true, false)
	defer sink.Close()
	s, err := o.request(sink).Supply()
	if err != nil {
		return nil, catalog.Image{}, err
	}
	img, err := s.All().Image(name)
	if err != nil || !s.Builds() {
		return s, img, err
	}
	_, err = s.Image(ctx, img)
	return s, img, err
}

// builtProgram is builtImage for a program of the nodes.
func (o *options) builtProgram(ctx context.Context, name string) (*supply.Supply, catalog.Binary, error) {
	sink := ui.Choose(o.err, true, false)
	defer sink.Close()
	s, err := o.request(sink).Supply()
	if err != nil {
		return nil, catalog.Binary{}, err
	}
	bin, err := s.NodeProgram(name)
	if err != nil || !s.Builds() {
		return s, bin, err
	}
	_, err = s.Binary(ctx, bin)
	return s, bin, err
}
