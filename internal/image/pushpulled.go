package image

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/oci"
)

// pulled is the record of an image that came from a registry: those are kept by digest.
func (l layout) pulled(built Built) (record, bool) {
	var r record
	data, err := os.ReadFile(l.record(strings.TrimPrefix(built.Digest, "sha256:")))
	if err != nil || json.Unmarshal(data, &r) != nil || r.Digest != built.Digest {
		return r, false
	}
	return r, true
}

// Attached lists the manifests that came with a pulled image: signatures and documents.
func Attached(built Built) []v1.Descriptor {
	r, _ := layout{dir: built.Layout}.pulled(built)
	return r.Referrers
}

// NotePulled makes the image known to its layout as pulled, so that [Push] sends what is
// attached to it too. blobs, the image's manifest first, and those of attached are in the
// layout.
func NotePulled(built Built, blobs, attached []v1.Descriptor) error {
	r := record{Built: built, Referrers: attached}
	for _, d := range blobs {
		r.Blobs = append(r.Blobs, blobSize{d.Digest, d.Size})
	}
	return layout{dir: built.Layout}.note(strings.TrimPrefix(built.Digest, "sha256:"), r)
}

// sparse is what a layout has of an index that is not known as pulled, such as a bundle's:
// the index and this platform's image.
func (l layout) sparse(built Built) (record, bool) {
	digest, err := v1.NewHash(built.Digest)
	if err != nil {
		return record{}, false
	}
	top, err := l.stored(digest)
	if err != nil || !top.tree.IsIndex() {
		return record{}, false
	}
	r := record{Built: built, Blobs: []blobSize{{digest, int64(len(top.raw))}}}
	child, err := top.tree.Choose(build.Platform())
	if err != nil {
		return r, true // pushing it says so
	}
	img, err := l.stored(child.Digest)
	if err != nil {
		return r, true
	}
	r.Blobs = append(r.Blobs, blobSize{child.Digest, child.Size})
	for _, d := range img.tree.Blobs() {
		r.Blobs = append(r.Blobs, blobSize{d.Digest, d.Size})
	}
	return r, true
}

// pushPulled sends a pulled image with what is attached to it. The tag comes last, so that
// what has it is whole. The caller holds the lock.
func (l layout) pushPulled(tag name.Tag, r record, options []remote.Option) error {
	for _, b := range r.Blobs {
		if sum, err := disk.SHA256(l.blob(b.Digest)); err != nil {
			return err
		} else if sum != b.Digest.Hex {
			os.Remove(l.blob(b.Digest))
			return fmt.Errorf("%w: blob %s; it was removed: pull the image again", errCorrupt, b.Digest)
		}
	}
	top, err := l.stored(r.Blobs[0].Digest)
	if err != nil {
		return err
	}
	at := func(d v1.Hash) name.Digest { return tag.Context().Digest(d.String()) }
	for _, d := range r.Referrers {
		attached, err := l.stored(d.Digest)
		if err != nil {
			return err
		}
		if err := attached.write(at(d.Digest), options); err != nil {
			return fmt.Errorf("attachment %s: %w", d.Digest, err)
		}
	}
	if !top.tree.IsIndex() {
		return top.write(tag, options)
	}
	child, err := top.tree.Choose(build.Platform())
	if err != nil {
		return err
	}
	img, err := l.stored(child.Digest)
	if err != nil {
		return err
	}
	if err := img.write(at(child.Digest), options); err != nil {
		return err
	}
	return remote.Put(tag, top, options...)
}

// stored is a manifest of a layout with its blobs: a partial.CompressedImageCore.
type stored struct {
	layout layout
	raw    []byte
	tree   oci.Manifest
}

func (l layout) stored(d v1.Hash) (stored, error) {
	m, raw, err := oci.Layout(l.dir).Manifest(d, oci.MaxLayers)
	return stored{l, raw, m}, err
}

func (s stored) write(ref name.Reference, options []remote.Option) error {
	img, err := partial.CompressedToImage(s)
	if err != nil {
		return err
	}
	return remote.Write(ref, img, options...)
}

// RawManifest is the manifest as it came.
func (s stored) RawManifest() ([]byte, error) { return s.raw, nil }

// MediaType of the manifest.
func (s stored) MediaType() (types.MediaType, error) { return s.tree.Type(), nil }

// RawConfigFile is the configuration as it came.
func (s stored) RawConfigFile() ([]byte, error) {
	if s.tree.Config == nil {
		return nil, fmt.Errorf("an index has no configuration")
	}
	return os.ReadFile(s.layout.blob(s.tree.Config.Digest))
}

// LayerByDigest finds a layer, or the configuration, by the digest of what is sent.
func (s stored) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	i := slices.IndexFunc(s.tree.Blobs(), func(d v1.Descriptor) bool { return d.Digest == h })
	if i < 0 {
		return nil, fmt.Errorf("no layer %s", h)
	}
	return storedLayer{s.layout, s.tree.Blobs()[i]}, nil
}

// storedLayer is a blob of a layout: a partial.CompressedLayer.
type storedLayer struct {
	layout     layout
	descriptor v1.Descriptor
}

// Digest, Compressed, Size and MediaType are those of the blob.
func (l storedLayer) Digest() (v1.Hash, error) { return l.descriptor.Digest, nil }
func (l storedLayer) Compressed() (io.ReadCloser, error) {
	return os.Open(l.layout.blob(l.descriptor.Digest))
}
func (l storedLayer) Size() (int64, error)                { return l.descriptor.Size, nil }
func (l storedLayer) MediaType() (types.MediaType, error) { return l.descriptor.MediaType, nil }
