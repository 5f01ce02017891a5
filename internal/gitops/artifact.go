package gitops

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// ManifestFile is the one file of an artifact.
const ManifestFile = "manifest.yaml"

// maxManifest bounds what is read back of an artifact, in bytes.
const maxManifest = 32 << 20

// Artifact makes the OCI artifact of a YAML stream, as Argo CD reads it: one layer, a compressed
// archive. Equal streams have equal digests.
func Artifact(manifest []byte) (v1.Image, error) {
	var layer bytes.Buffer
	z := gzip.NewWriter(&layer)
	t := tar.NewWriter(z)
	err := t.WriteHeader(&tar.Header{Name: ManifestFile, Mode: 0o444, Size: int64(len(manifest)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR})
	if err == nil {
		_, err = t.Write(manifest)
	}
	if err = errors.Join(err, t.Close(), z.Close()); err != nil {
		return nil, fmt.Errorf("pack the manifest: %w", err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, static.NewLayer(layer.Bytes(), types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("make the artifact: %w", err)
	}
	return image, nil
}

// Manifest is the YAML stream of an artifact that was read from a registry.
func Manifest(image v1.Image) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("read the artifact: %w", err) }
	layers, err := image.Layers()
	if err != nil {
		return fail(err)
	}
	if len(layers) != 1 {
		return fail(fmt.Errorf("it has %d layers; want one", len(layers)))
	}
	compressed, err := layers[0].Compressed()
	if err != nil {
		return fail(err)
	}
	defer compressed.Close()
	z, err := gzip.NewReader(compressed)
	if err != nil {
		return fail(err)
	}
	t := tar.NewReader(io.LimitReader(z, maxManifest))
	h, err := t.Next()
	if err != nil {
		return fail(err)
	}
	if h.Name != ManifestFile {
		return fail(fmt.Errorf("it has %q in place of %s", h.Name, ManifestFile))
	}
	text, err := io.ReadAll(t)
	if err != nil {
		return fail(err)
	}
	// To its end, where it is held to its digest.
	if _, err := io.Copy(io.Discard, io.LimitReader(compressed, maxManifest)); err != nil {
		return fail(err)
	}
	return text, nil
}
