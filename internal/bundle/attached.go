package bundle

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/oci"
)

// Attached is a manifest whose subject is an image of the bundle, with its blobs.
type Attached struct {
	Manifest []byte
	Blobs    [][]byte
}

// Document attaches data to an image as an OCI referrer.
func Document(subject v1.Descriptor, mediaType string, data []byte) (Attached, error) {
	subject = v1.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	m, err := json.Marshal(oci.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: mediaType,
		Config: oci.Empty(), Layers: []v1.Descriptor{oci.Describe(types.MediaType(mediaType), data)}, Subject: &subject,
		Annotations: map[string]string{noteDocument: "1"},
	})
	return Attached{Manifest: m, Blobs: [][]byte{[]byte(oci.EmptyContent), data}}, err
}

// Type is what the manifest says that it is.
func (a Attached) Type() string {
	m, _ := oci.Parse(a.Manifest, maxBlobs)
	return m.ArtifactType
}

// Document is the content of one that [Document] made; nil when it is something else.
func (a Attached) Document() []byte {
	m, err := oci.Parse(a.Manifest, maxBlobs)
	if err != nil || len(m.Layers) != 1 {
		return nil
	}
	for _, data := range a.Blobs {
		if hexSum(data) == m.Layers[0].Digest.Hex {
			return data
		}
	}
	return nil
}

// AttachedTo reads what came with a pulled image, out of its layout.
func AttachedTo(built image.Built) ([]Attached, error) {
	layout := oci.Layout(built.Layout)
	read := func(d v1.Descriptor) ([]byte, error) {
		if d.Size > oci.MaxDocument {
			return nil, fmt.Errorf("%s has %d bytes; a bundle takes at most %d in one document", d.Digest, d.Size, int64(oci.MaxDocument))
		}
		data, err := os.ReadFile(layout.Blob(d.Digest))
		if err == nil && hexSum(data) != d.Digest.Hex {
			err = fmt.Errorf("%s is %w: pull the image again", d.Digest, ErrDamaged)
		}
		return data, err
	}
	var out []Attached
	for _, d := range image.Attached(built) {
		raw, err := read(d)
		var m oci.Manifest
		if err == nil {
			m, err = oci.Parse(raw, maxBlobs)
		}
		if err == nil && m.Subject == nil {
			continue // found by its tag alone
		}
		one := Attached{Manifest: raw}
		for _, l := range leaves(m) {
			var data []byte
			if err == nil {
				data, err = read(l)
			}
			one.Blobs = append(one.Blobs, data)
		}
		if err != nil {
			return nil, fmt.Errorf("what is attached to image %s: %w", built.Name, err)
		}
		out = append(out, one)
	}
	return out, nil
}

// notePulled makes images known to the layout that have more attached than the documents
// that [Document] makes: it goes to the mirror with them.
func (b *Imported) notePulled() error {
	for _, i := range b.images {
		var others []v1.Descriptor
		blobs := b.parts(i.descriptor, 0)
		for _, a := range b.attachedTo(i.Digest) {
			if a.ours() {
				continue
			}
			others = append(others, a.descriptor)
			blobs = append(append(blobs, a.descriptor), leaves(a.manifest)...)
		}
		if len(others) == 0 {
			continue
		}
		built := image.Built{Name: i.Name, Version: i.Version, Digest: i.Digest, Size: i.Size, Layout: b.dir}
		if err := image.NotePulled(built, blobs, others); err != nil {
			return err
		}
	}
	return nil
}

// parts are the blobs of an image, its manifest first.
func (b *Imported) parts(d v1.Descriptor, depth int) []v1.Descriptor {
	out := []v1.Descriptor{d}
	m, _, err := oci.Layout(b.dir).Manifest(d.Digest, maxBlobs)
	if err != nil || depth > oci.MaxDepth {
		return out
	}
	for _, sub := range m.Manifests {
		if oci.Suits(sub, b.platform) {
			out = append(out, b.parts(sub, depth+1)...)
		}
	}
	return append(out, leaves(m)...)
}

// Attached reads what is attached to an image of the bundle: for each manifest, its blobs.
func (b *Imported) Attached(digest string) ([]Attached, error) {
	var out []Attached
	for _, a := range b.attachedTo(digest) {
		read := func(d v1.Descriptor) ([]byte, error) {
			path := oci.Layout(b.dir).Blob(d.Digest)
			data, err := os.ReadFile(path)
			if err == nil && hexSum(data) != d.Digest.Hex {
				err = b.damaged(path)
			}
			return data, err
		}
		raw, err := read(a.descriptor)
		if err != nil {
			return nil, fmt.Errorf("what is attached to %s: %w", digest, err)
		}
		one := Attached{Manifest: raw}
		for _, l := range leaves(a.manifest) {
			data, err := read(l)
			if err != nil {
				return nil, fmt.Errorf("what is attached to %s: %w", digest, err)
			}
			one.Blobs = append(one.Blobs, data)
		}
		out = append(out, one)
	}
	return out, nil
}

// ProgramDocuments reads the documents of a program, by media type; none in a bundle that an older
// orrery made.
func (b *Imported) ProgramDocuments(program string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, p := range b.programDocuments {
		if p.program != program {
			continue
		}
		path := oci.Layout(b.dir).Blob(p.descriptor.Digest)
		data, err := os.ReadFile(path)
		if err == nil && hexSum(data) != p.descriptor.Digest.Hex {
			err = b.damaged(path)
		}
		if err != nil {
			return nil, fmt.Errorf("what is attached to program %s: %w", program, err)
		}
		out[string(p.descriptor.MediaType)] = data
	}
	return out, nil
}

// attachment is a manifest with a subject.
type attachment struct {
	descriptor v1.Descriptor
	manifest   oci.Manifest
}

func (s *parsedIndex) attachedTo(digest string) (out []attachment) {
	for _, a := range s.attached {
		if a.manifest.Subject.Digest.String() == digest {
			out = append(out, a)
		}
	}
	return out
}

// ours: made by [Document].
func (a attachment) ours() bool { return a.manifest.Annotations[noteDocument] != "" }

// kind is what an attachment calls itself.
func (a attachment) kind() string { return cmp.Or(a.manifest.Kind(), "unknown") }
