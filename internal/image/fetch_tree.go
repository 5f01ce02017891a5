package image

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// tree is what is read of a manifest or index.
type tree struct {
	SchemaVersion int64           `json:"schemaVersion"`
	MediaType     types.MediaType `json:"mediaType"`
	Config        *v1.Descriptor  `json:"config"`
	Layers        []v1.Descriptor `json:"layers"`
	Manifests     []v1.Descriptor `json:"manifests"`
}

func (t tree) index() bool { return len(t.Manifests) > 0 || t.MediaType.IsIndex() }

// mediaType may be left out of an OCI manifest.
func (t tree) mediaType() types.MediaType {
	switch {
	case t.MediaType != "":
		return t.MediaType
	case t.index():
		return types.OCIImageIndex
	}
	return types.OCIManifestSchema1
}

// parts are the blobs that a manifest names.
func (t tree) parts() []v1.Descriptor {
	if t.Config == nil {
		return t.Layers
	}
	return append([]v1.Descriptor{*t.Config}, t.Layers...)
}

// parseTree reads a manifest or index of whoever made it.
func parseTree(data []byte) (tree, error) {
	var t tree
	if err := json.Unmarshal(data, &t); err != nil {
		return t, fmt.Errorf("%w: the manifest is not JSON: %w", ErrWrongContent, err)
	}
	all := slices.Concat(t.parts(), t.Manifests)
	if len(all) > maxLayers {
		return t, fmt.Errorf("%w: the manifest names %d parts, more than %d", ErrWrongContent, len(all), maxLayers)
	}
	for _, d := range all {
		if d.Digest.Algorithm != "sha256" || len(d.Digest.Hex) != 64 || d.Size < 0 || d.Size > maxBlob {
			return t, fmt.Errorf("%w: the manifest names %q with %d bytes", ErrWrongContent, d.Digest, d.Size)
		}
	}
	if !t.index() && t.Config == nil {
		return t, fmt.Errorf("%w: neither a manifest nor an index of manifests", ErrWrongContent)
	}
	return t, nil
}

// choose picks the manifest for a platform.
func (t tree) choose(arch string) (v1.Descriptor, error) {
	var have []string
	for _, d := range t.Manifests {
		if d.Platform == nil {
			continue
		}
		if d.Platform.OS == "linux" && d.Platform.Architecture == arch && !d.MediaType.IsIndex() {
			return d, nil
		}
		have = append(have, d.Platform.String())
	}
	return v1.Descriptor{}, fmt.Errorf("it has nothing for linux/%s, only for %s", arch, strings.Join(have, ", "))
}
