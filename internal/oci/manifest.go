package oci

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Limits of what others may send, in bytes and in number.
const (
	MaxManifest  = 4 << 20
	MaxBlob      = 32 << 30
	MaxDocument  = 64 << 20 // a blob of a referrer
	MaxLayers    = 512
	MaxReferrers = 64 // of one image
	MaxDepth     = 4  // indexes inside indexes
)

// Annotations of descriptors.
const (
	RefName = "org.opencontainers.image.ref.name" // by which the index of a layout names an image
	Title   = "org.opencontainers.image.title"
)

// EmptyContent is what a configuration of the type [types.OCIEmptyJSON] consists of.
const EmptyContent = "{}"

// ManifestTypes are those of manifests and indexes that are understood.
var ManifestTypes = []string{
	string(types.OCIManifestSchema1), string(types.OCIImageIndex), string(types.DockerManifestSchema2), string(types.DockerManifestList),
}

// ErrInvalid is wrapped by errors about bytes that are no manifest or index, or exceed a limit.
var ErrInvalid = errors.New("no valid manifest")

// Manifest is that of an image or artifact, or, when it is read, an index: [Manifest.IsIndex].
// To write an index, there is [Index].
type Manifest struct {
	SchemaVersion int64             `json:"schemaVersion"`
	MediaType     types.MediaType   `json:"mediaType,omitempty"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        *v1.Descriptor    `json:"config,omitempty"`
	Layers        []v1.Descriptor   `json:"layers,omitempty"`
	Manifests     []v1.Descriptor   `json:"manifests,omitempty"`
	Subject       *v1.Descriptor    `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// Index names manifests.
type Index struct {
	SchemaVersion int64             `json:"schemaVersion"`
	MediaType     types.MediaType   `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Manifests     []v1.Descriptor   `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// Parse reads a manifest or index of whoever made it, that names at most that many blobs and
// manifests. Errors wrap [ErrInvalid].
func Parse(data []byte, most int) (Manifest, error) {
	var m Manifest
	if len(data) > MaxManifest {
		return m, fmt.Errorf("%w: it has %d bytes, more than %d", ErrInvalid, len(data), MaxManifest)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%w: it is not JSON: %w", ErrInvalid, err)
	}
	all := slices.Concat(m.Blobs(), m.Manifests)
	if m.Subject != nil {
		all = append(all, *m.Subject)
	}
	if len(all) > most {
		return m, fmt.Errorf("%w: it names %d parts, more than %d", ErrInvalid, len(all), most)
	}
	for _, d := range all {
		if d.Digest.Algorithm != "sha256" || len(d.Digest.Hex) != 64 || d.Size < 0 || d.Size > MaxBlob {
			return m, fmt.Errorf("%w: it names %q with %d bytes", ErrInvalid, d.Digest, d.Size)
		}
	}
	if !m.IsIndex() && m.Config == nil {
		return m, fmt.Errorf("%w: it has neither a configuration nor manifests", ErrInvalid)
	}
	return m, nil
}

// IsIndex tells an index from a manifest.
func (m Manifest) IsIndex() bool { return len(m.Manifests) > 0 || m.MediaType.IsIndex() }

// Type is the media type, which may be left out inside.
func (m Manifest) Type() types.MediaType {
	switch {
	case m.MediaType != "":
		return m.MediaType
	case m.IsIndex():
		return types.OCIImageIndex
	}
	return types.OCIManifestSchema1
}

// Kind is what an artifact calls itself: its type, or that of its configuration.
func (m Manifest) Kind() string {
	switch {
	case m.ArtifactType != "":
		return m.ArtifactType
	case m.Config != nil:
		return string(m.Config.MediaType)
	}
	return ""
}

// Blobs are the configuration, if any, and the layers.
func (m Manifest) Blobs() []v1.Descriptor {
	if m.Config == nil {
		return m.Layers
	}
	return append([]v1.Descriptor{*m.Config}, m.Layers...)
}

// Choose picks the manifest of an index that is for a platform, OS/ARCH.
func (m Manifest) Choose(platform string) (v1.Descriptor, error) {
	var have []string
	for _, d := range m.Manifests {
		if d.Platform == nil {
			continue
		}
		if Suits(d, platform) && !d.MediaType.IsIndex() {
			return d, nil
		}
		have = append(have, d.Platform.String())
	}
	return v1.Descriptor{}, fmt.Errorf("it has nothing for %s, only for %s", platform, strings.Join(have, ", "))
}

// Suits reports whether what d is about may be for a platform: it is, or it does not say.
func Suits(d v1.Descriptor, platform string) bool {
	return d.Platform == nil || d.Platform.OS+"/"+d.Platform.Architecture == platform
}

// Digest is that of data.
func Digest(data []byte) v1.Hash {
	sum := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// Describe makes the descriptor of data.
func Describe(mediaType types.MediaType, data []byte) v1.Descriptor {
	return v1.Descriptor{MediaType: mediaType, Digest: Digest(data), Size: int64(len(data))}
}

// Empty is the configuration of what has none.
func Empty() *v1.Descriptor {
	d := Describe(types.OCIEmptyJSON, []byte(EmptyContent))
	return &d
}
