package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/oci"
)

// collect finds the blobs of images and of what is attached to them, and returns the
// descriptors for the index.
func (w *writer) collect(c Contents) ([]v1.Descriptor, error) {
	w.add(blob{digest: hexSum([]byte(oci.EmptyContent)), size: int64(len(oci.EmptyContent)), data: []byte(oci.EmptyContent)})
	var out []v1.Descriptor
	var layers []blob
	os_, arch, _ := strings.Cut(c.Platform, "/")
	for _, built := range slices.SortedFunc(slices.Values(c.Images), func(a, b image.Built) int { return strings.Compare(a.Name, b.Name) }) {
		layout := oci.Layout(built.Layout)
		d, err := w.graph(layout, c.Platform, v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: hexOf(built.Digest)}}, &layers, 0)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", built.Name, err)
		}
		d.Annotations = map[string]string{oci.RefName: built.Name + ":" + built.Version}
		d.Platform = &v1.Platform{OS: os_, Architecture: arch}
		out = append(out, d)
	}
	attached := map[string]v1.Descriptor{}
	for _, a := range c.Attached {
		m, err := oci.Parse(a.Manifest, maxBlobs)
		if err != nil || m.Subject == nil {
			return nil, fmt.Errorf("what is to be attached to an image is no manifest with a subject: %w", err)
		}
		d := oci.Describe(m.MediaType, a.Manifest)
		d.ArtifactType = m.Kind()
		for _, data := range slices.Concat([][]byte{a.Manifest}, a.Blobs) {
			w.add(blob{digest: hexSum(data), size: int64(len(data)), data: data})
		}
		attached[d.Digest.Hex] = d
	}
	if len(c.ProgramDocuments) > 0 {
		out = append(out, w.programDocuments(c.ProgramDocuments))
	}
	for _, l := range layers { // the small things first
		w.add(l)
	}
	for _, hex := range slices.Sorted(maps.Keys(attached)) {
		out = append(out, attached[hex])
	}
	return out, nil
}

// programDocuments adds the documents of programs, under one manifest.
func (w *writer) programDocuments(programDocuments []ProgramDocument) v1.Descriptor {
	m := oci.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: typePapers, Config: oci.Empty()}
	for _, p := range programDocuments {
		d := oci.Describe(types.MediaType(p.Type), p.Data)
		d.Annotations = map[string]string{oci.Title: p.Program}
		m.Layers = append(m.Layers, d)
		w.add(blob{digest: d.Digest.Hex, size: d.Size, data: p.Data})
	}
	data, _ := json.Marshal(m) // of strings and numbers
	d := oci.Describe(types.OCIManifestSchema1, data)
	w.add(blob{digest: d.Digest.Hex, size: d.Size, data: data})
	return artifact(typePapers, d)
}

// graph adds a manifest of a layout and what it names.
func (w *writer) graph(layout oci.Layout, platform string, d v1.Descriptor, layers *[]blob, depth int) (v1.Descriptor, error) {
	if depth > oci.MaxDepth {
		return d, errors.New("its indexes are nested too deeply")
	}
	m, data, err := layout.Manifest(d.Digest, maxBlobs)
	if err != nil {
		return d, err
	}
	d.MediaType, d.Size = m.Type(), int64(len(data))
	w.add(blob{digest: d.Digest.Hex, size: d.Size, path: layout.Blob(d.Digest)})
	for _, sub := range m.Manifests {
		if !oci.Suits(sub, platform) {
			continue
		}
		if _, err := w.graph(layout, platform, sub, layers, depth+1); err != nil {
			return d, err
		}
	}
	if m.Config != nil {
		w.add(blob{digest: m.Config.Digest.Hex, size: m.Config.Size, path: layout.Blob(m.Config.Digest)})
	}
	for _, l := range m.Layers {
		*layers = append(*layers, blob{digest: l.Digest.Hex, size: l.Size, path: layout.Blob(l.Digest)})
	}
	return d, nil
}
