package app

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/sbom"
)

func newImagesProvenance(o *options) *cobra.Command {
	return o.document(&cobra.Command{
		Use:   "provenance IMAGE",
		Short: "Print how an image was made: SLSA provenance v1 in an in-toto statement",
		Long: `Print how an image was made: an in-toto statement with SLSA provenance v1. It names the
entry of the catalogue, every module that is linked in and the Go toolchain, each with its
hash. What is built on this machine is SLSA build level 1, and the statement says so. In
the mirror of an environment it is signed by the environment's key.`,
	}, provenanceType, (*workshop).provenance)
}

func (w *workshop) provenance(ctx context.Context, img catalog.Image) ([]byte, error) {
	built, err := w.builder.Image(ctx, img)
	if err != nil {
		return nil, err
	}
	// What Inspect says besides, the layers, is not in it and takes time to read.
	in := image.Inspection{Built: built, Platform: build.Platform()}
	for _, bin := range img.Binaries {
		program, err := w.builder.Program(ctx, bin)
		if err != nil {
			return nil, err
		}
		program.Path = "/" + bin.Name
		in.Programs = append(in.Programs, program)
	}
	binaries := map[string]catalog.Binary{}
	for _, bin := range img.Binaries {
		binaries[bin.Name] = bin
	}
	have, err := describe(ctx, w.builder, binaries, map[string]catalog.Image{img.Name: img})
	if err != nil {
		return nil, err
	}
	tc, err := w.builder.Toolchain(ctx)
	if err != nil {
		return nil, err
	}
	return sbom.Provenance(sbom.Source{
		Image: in, Entry: have.Images[img.Name], Binaries: have.Binaries,
		ToolchainVersion: tc.Version, ToolchainSum: tc.Sum,
	})
}
