package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/oci"
)

// kind of a blob says what unpacking does with it.
type kind int

const (
	kindPlain   kind = iota // goes into the layout as it is
	kindProgram             // is unpacked to bin/SHA256
	kindCatalog             // is unpacked to catalog/
)

// entry is a blob that the index names, itself or through a manifest.
type entry struct {
	digest  string // hexadecimal
	size    int64
	owner   string
	kind    kind
	program Program
	plain   int64 // bytes, unpacked; 0 for kindPlain
	layer   bool  // of an image
}

// unpacked is the bytes that the entry takes on the disk.
func (e entry) unpacked() int64 {
	if e.kind == kindPlain {
		return e.size
	}
	return e.plain
}

// Image is one of a bundle.
type Image struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Digest  string `json:"digest"`
	// Size in bytes of manifest, configuration and layers.
	Size int64 `json:"size"`
	// Attached are the types of what is attached to it.
	Attached []string `json:"attached"`

	descriptor v1.Descriptor
}

// programDocument is a document of a program.
type programDocument struct {
	program    string
	descriptor v1.Descriptor
}

// parsedIndex is what an index says, all of it checked but the content of layers.
type parsedIndex struct {
	digest           string // of the index, hexadecimal
	format           int
	platform         string
	overlay          string
	components       []string
	lock             string // SHA-256 of orrery.lock
	catalog          entry
	programs         []Program
	programDocuments []programDocument
	images           []Image
	attached         []attachment
	entries          map[string]entry // by digest, in hexadecimal
	sums             *v1.Descriptor
}

// parseIndex reads index.json.
func parseIndex(raw []byte) (oci.Index, error) {
	var idx oci.Index
	if err := json.Unmarshal(raw, &idx); err != nil {
		return idx, fmt.Errorf("its %s is not JSON: %w", oci.IndexFile, err)
	}
	if idx.ArtifactType != typeBundle {
		return idx, fmt.Errorf("%w: it is an OCI layout of the type %q; 'orrery images load' takes single images", ErrNotBundle, idx.ArtifactType)
	}
	switch format, err := strconv.Atoi(idx.Annotations[noteFormat]); {
	case err != nil || format < 1:
		return idx, fmt.Errorf("%s: annotation %s: is %q; must be a number from 1", oci.IndexFile, noteFormat, idx.Annotations[noteFormat])
	case format > Format:
		return idx, fmt.Errorf("%w: it has format %d, this program reads up to %d; use a newer orrery", ErrNewer, format, Format)
	}
	if idx.SchemaVersion != 2 || idx.MediaType != types.OCIImageIndex {
		return idx, fmt.Errorf("%s: is no OCI image index (schemaVersion %d, mediaType %q)", oci.IndexFile, idx.SchemaVersion, idx.MediaType)
	}
	return idx, nil
}

// look reads the index and, through read, every manifest below it. read returns the whole
// blob with the digest checked.
func look(raw []byte, read func(v1.Descriptor) ([]byte, error)) (*parsedIndex, error) {
	idx, err := parseIndex(raw)
	if err != nil {
		return nil, err
	}
	s := &parsedIndex{
		digest: hexSum(raw), platform: idx.Annotations[notePlatform], overlay: idx.Annotations[noteOverlay],
		lock: idx.Annotations[noteLock], entries: map[string]entry{},
	}
	s.format, _ = strconv.Atoi(idx.Annotations[noteFormat]) // which parseIndex has read
	if os_, arch, ok := strings.Cut(s.platform, "/"); !ok || !nameForm.MatchString(os_) || !nameForm.MatchString(arch) {
		return nil, fmt.Errorf("%s: annotation %s: is %q; must be OS/ARCH", oci.IndexFile, notePlatform, s.platform)
	}
	if !hexForm.MatchString(s.lock) {
		return nil, fmt.Errorf("%s: annotation %s: is %q; must be 64 hexadecimal digits", oci.IndexFile, noteLock, s.lock)
	}
	for name := range strings.SplitSeq(idx.Annotations[noteParts], ",") {
		if name == "" {
			continue
		}
		if !nameForm.MatchString(name) {
			return nil, fmt.Errorf("%s: annotation %s: %q is no name of a component", oci.IndexFile, noteParts, name)
		}
		s.components = append(s.components, name)
	}
	for i, d := range idx.Manifests {
		if err := s.top(d, read); err != nil {
			return nil, fmt.Errorf("%s: manifests[%d]: %w", oci.IndexFile, i, err)
		}
	}
	if s.catalog.digest == "" {
		return nil, fmt.Errorf("%s: names no catalogue", oci.IndexFile)
	}
	s.assign()
	return s, nil
}

// top takes one entry of the index.
func (s *parsedIndex) top(d v1.Descriptor, read func(v1.Descriptor) ([]byte, error)) error {
	switch d.ArtifactType {
	case typeCatalog, typeNodes, typeSums, typePapers:
		m, err := s.manifest(d, ownerOf(d.ArtifactType), read)
		if err != nil {
			return err
		}
		if d.ArtifactType == typePapers {
			return s.documents(m)
		}
		return s.artifact(d.ArtifactType, m)
	}
	if ref := d.Annotations[oci.RefName]; ref != "" {
		name, version, _ := strings.Cut(ref, ":")
		if !nameForm.MatchString(name) || !nameForm.MatchString(version) {
			return fmt.Errorf("annotation %s: is %q; must be NAME:VERSION", oci.RefName, ref)
		}
		if slices.ContainsFunc(s.images, func(i Image) bool { return i.Name == name }) {
			return fmt.Errorf("a second image %s", name)
		}
		i := Image{Name: name, Version: version, Digest: d.Digest.String(), Attached: []string{}, descriptor: d}
		var err error
		i.Size, err = s.tree(d, "image "+ref, read, 0)
		s.images = append(s.images, i)
		return err
	}
	m, err := s.manifest(d, "what is attached to an image", read)
	if err != nil {
		return err
	}
	if m.Subject == nil {
		return fmt.Errorf("%s is neither an image with a name nor attached to one", d.Digest)
	}
	s.attached = append(s.attached, attachment{d, m})
	return s.leaves(m, "what is attached to "+m.Subject.Digest.String())
}

func ownerOf(artifact string) string {
	return map[string]string{typeCatalog: "the catalogue", typeNodes: "the list of programs", typeSums: "the checksums", typePapers: "the documents of programs"}[artifact]
}

// artifact takes one of ours.
func (s *parsedIndex) artifact(which string, m oci.Manifest) error {
	if which != typeNodes && len(m.Layers) != 1 {
		return fmt.Errorf("%s has %d layers and not one", ownerOf(which), len(m.Layers))
	}
	if m.Config != nil {
		if err := s.note(*m.Config, entry{digest: m.Config.Digest.Hex, size: m.Config.Size, owner: ownerOf(which)}); err != nil {
			return err
		}
	}
	for i, l := range m.Layers {
		e := entry{digest: l.Digest.Hex, size: l.Size, owner: ownerOf(which)}
		limit := int64(maxSums)
		switch which {
		case typeCatalog:
			e.kind, limit = kindCatalog, maxCatalog
		case typeNodes:
			e.kind, limit = kindProgram, maxProgram
		}
		if which != typeSums {
			var err error
			e.plain, err = strconv.ParseInt(l.Annotations[noteSize], 10, 64)
			if err != nil || e.plain < 0 || e.plain > limit {
				return fmt.Errorf("layers[%d]: annotation %s: is %q; must be a number up to %d", i, noteSize, l.Annotations[noteSize], limit)
			}
			e.program = Program{Name: l.Annotations[oci.Title], SHA256: l.Annotations[noteSHA256], Size: e.plain}
			if !hexForm.MatchString(e.program.SHA256) || !nameForm.MatchString(e.program.Name) {
				return fmt.Errorf("layers[%d]: annotations %s and %s: %q and %q are no name and SHA-256", i, oci.Title, noteSHA256, e.program.Name, e.program.SHA256)
			}
		} else if l.Size > limit {
			return fmt.Errorf("layers[%d]: the checksums have %d bytes; at most %d are taken", i, l.Size, limit)
		}
		switch which {
		case typeCatalog:
			if s.catalog.digest != "" {
				return errors.New("a second catalogue")
			}
			s.catalog = e
		case typeNodes:
			if slices.ContainsFunc(s.programs, func(p Program) bool { return p.Name == e.program.Name }) {
				return fmt.Errorf("layers[%d]: a second program %s", i, e.program.Name)
			}
			e.owner = "program " + e.program.Name
			s.programs = append(s.programs, e.program)
		case typeSums:
			if s.sums != nil {
				return errors.New("a second list of checksums")
			}
			s.sums = &l
		}
		if err := s.note(l, e); err != nil {
			return fmt.Errorf("layers[%d]: %w", i, err)
		}
	}
	return nil
}

// documents takes those of programs.
func (s *parsedIndex) documents(m oci.Manifest) error {
	if s.programDocuments != nil {
		return fmt.Errorf("a second list of %s", ownerOf(typePapers))
	}
	s.programDocuments = []programDocument{}
	if m.Config != nil {
		if err := s.note(*m.Config, entry{digest: m.Config.Digest.Hex, size: m.Config.Size, owner: ownerOf(typePapers)}); err != nil {
			return err
		}
	}
	for i, l := range m.Layers {
		name := l.Annotations[oci.Title]
		switch {
		case !nameForm.MatchString(name) || l.MediaType == "":
			return fmt.Errorf("layers[%d]: annotation %s and mediaType: %q and %q are no program and type", i, oci.Title, name, l.MediaType)
		case l.Size > oci.MaxDocument:
			return fmt.Errorf("layers[%d]: a document of %d bytes; at most %d are taken", i, l.Size, int64(oci.MaxDocument))
		}
		if err := s.note(l, entry{digest: l.Digest.Hex, size: l.Size, owner: "what is attached to program " + name}); err != nil {
			return fmt.Errorf("layers[%d]: %w", i, err)
		}
		s.programDocuments = append(s.programDocuments, programDocument{name, l})
	}
	return nil
}

// tree takes the manifest of an image, or an index of several, and returns its size.
func (s *parsedIndex) tree(d v1.Descriptor, owner string, read func(v1.Descriptor) ([]byte, error), depth int) (int64, error) {
	if depth > oci.MaxDepth {
		return 0, fmt.Errorf("%s: indexes are nested more than %d deep", owner, oci.MaxDepth)
	}
	m, err := s.manifest(d, owner, read)
	if err != nil {
		return 0, err
	}
	size := d.Size
	for _, sub := range m.Manifests {
		if !oci.Suits(sub, s.platform) {
			continue
		}
		n, err := s.tree(sub, owner, read, depth+1)
		if err != nil {
			return 0, err
		}
		size += n
	}
	for _, l := range m.Layers {
		size += l.Size
	}
	if m.Config != nil {
		size += m.Config.Size
	}
	return size, s.leaves(m, owner)
}

// leaves notes what a manifest names that names nothing itself.
func (s *parsedIndex) leaves(m oci.Manifest, owner string) error {
	for i, l := range leaves(m) {
		if err := s.note(l, entry{digest: l.Digest.Hex, size: l.Size, owner: owner, layer: i < len(m.Layers)}); err != nil {
			return err
		}
	}
	return nil
}

// manifest reads one.
func (s *parsedIndex) manifest(d v1.Descriptor, owner string, read func(v1.Descriptor) ([]byte, error)) (oci.Manifest, error) {
	var m oci.Manifest
	if err := s.note(d, entry{digest: d.Digest.Hex, size: d.Size, owner: owner}); err != nil {
		return m, err
	}
	if d.Size > oci.MaxManifest {
		return m, fmt.Errorf("manifest %s has %d bytes; at most %d are read", d.Digest, d.Size, oci.MaxManifest)
	}
	data, err := read(d)
	if err != nil {
		return m, err
	}
	if m, err = oci.Parse(data, maxBlobs); err != nil {
		return m, fmt.Errorf("manifest %s of %s: %w", d.Digest, owner, err)
	}
	return m, nil
}

// note remembers a blob. One that is named twice must be the same both times.
func (s *parsedIndex) note(d v1.Descriptor, e entry) error {
	if !digestForm.MatchString(d.Digest.String()) {
		return fmt.Errorf("%s is no SHA-256 digest", d.Digest)
	}
	if d.Size < 0 || d.Size > maxBlob {
		return fmt.Errorf("%s has %d bytes; must be 0 to %d", d.Digest, d.Size, int64(maxBlob))
	}
	old, again := s.entries[e.digest]
	switch {
	case !again && len(s.entries) >= maxBlobs:
		return fmt.Errorf("there are more than %d blobs", maxBlobs)
	case again && (old.size != e.size || old.kind != e.kind || old.program.SHA256 != e.program.SHA256):
		return fmt.Errorf("%s is named twice, as different things", d.Digest)
	case !again:
		s.entries[e.digest] = e
	}
	return nil
}

// assign tells images what is attached to them, directly or not.
func (s *parsedIndex) assign() {
	for i := range s.images {
		for _, a := range s.attachedTo(s.images[i].Digest) {
			s.images[i].Attached = append(s.images[i].Attached, a.kind())
		}
		slices.Sort(s.images[i].Attached)
	}
	slices.SortFunc(s.images, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	names := map[string]string{}
	for _, i := range s.images {
		names[i.Digest] = i.Name + ":" + i.Version
	}
	for hex, e := range s.entries {
		if subject, ok := strings.CutPrefix(e.owner, "what is attached to "); ok && names[subject] != "" {
			e.owner = "what is attached to image " + names[subject]
			s.entries[hex] = e
		}
	}
}

// leaves are what a manifest names that names nothing itself, the configuration last.
func leaves(m oci.Manifest) []v1.Descriptor {
	leaves := slices.Clone(m.Layers)
	if m.Config != nil {
		leaves = append(leaves, *m.Config)
	}
	return leaves
}

// sorted are the entries by digest.
func (s *parsedIndex) sorted() []entry {
	var out []entry
	for _, hex := range slices.Sorted(maps.Keys(s.entries)) {
		out = append(out, s.entries[hex])
	}
	return out
}
