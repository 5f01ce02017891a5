package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/orrery-dev/orrery/internal/oci"
)

// TagContent is what a registry has under a tag right now.
type TagContent struct {
	// Digest of the image, or of the index of several platforms: of the bytes that came.
	Digest string
	// Platforms as OS/ARCH, sorted; of an image that is not in an index, its own.
	Platforms []string
	// Bytes of what this machine's platform would pull, and the labels of its configuration.
	Bytes  int64
	Labels map[string]string
}

// Resolve asks a registry what a tag names, and pulls nothing. Errors wrap [ErrNotReachable]; that
// there is nothing for this platform is one too.
func (r *Registries) Resolve(ctx context.Context, reference string) (TagContent, error) {
	tag, err := name.NewTag(reference, name.StrictValidation)
	if err != nil {
		return TagContent{}, notReachable(reference, err)
	}
	t, err := r.resolve(ctx, tag)
	if err != nil {
		return t, notReachable(reference, err)
	}
	return t, nil
}

func (r *Registries) resolve(ctx context.Context, tag name.Tag) (t TagContent, err error) {
	data, err := r.small(ctx, tag.Context(), "manifests/"+tag.TagStr(), oci.MaxManifest, oci.ManifestTypes...)
	if err != nil {
		return t, err
	}
	t.Digest = oci.Digest(data).String()
	m, err := parseManifest(data)
	if err != nil {
		return t, err
	}
	t.Bytes = int64(len(data))
	if m.IsIndex() {
		for _, d := range m.Manifests {
			if p := d.Platform; p != nil && p.OS != "unknown" { // which is how attestations are put in
				t.Platforms = append(t.Platforms, p.OS+"/"+p.Architecture)
			}
		}
		slices.Sort(t.Platforms)
		t.Platforms = slices.Compact(t.Platforms)
		own, err := m.Choose("linux/" + r.arch)
		if err != nil {
			return t, err
		}
		if data, err = r.small(ctx, tag.Context(), "manifests/"+own.Digest.String(), oci.MaxManifest, oci.ManifestTypes...); err != nil {
			return t, err
		}
		if oci.Digest(data) != own.Digest {
			return t, fmt.Errorf("%w: manifest %s came as %s", ErrWrongContent, own.Digest, oci.Digest(data))
		}
		if m, err = parseManifest(data); err != nil {
			return t, err
		}
		t.Bytes += int64(len(data))
	}
	for _, b := range m.Blobs() {
		t.Bytes += b.Size
	}
	if m.Config == nil {
		return t, fmt.Errorf("%w: no configuration", oci.ErrInvalid)
	}
	if data, err = r.small(ctx, tag.Context(), "blobs/"+m.Config.Digest.String(), oci.MaxManifest); err != nil {
		return t, err
	}
	if oci.Digest(data) != m.Config.Digest {
		return t, fmt.Errorf("%w: configuration %s came as %s", ErrWrongContent, m.Config.Digest, oci.Digest(data))
	}
	var config v1.ConfigFile
	if err := json.Unmarshal(data, &config); err != nil {
		return t, fmt.Errorf("%w: its configuration is not JSON: %w", oci.ErrInvalid, err)
	}
	if len(t.Platforms) == 0 {
		t.Platforms = []string{strings.Trim(config.OS+"/"+config.Architecture, "/")}
	}
	t.Labels = config.Config.Labels
	return t, nil
}

// small reads one answer of a repository, of at most so many bytes.
func (r *Registries) small(ctx context.Context, repo name.Repository, path string, most int64, accept ...string) ([]byte, error) {
	resp, err := r.request(ctx, http.MethodGet, repo, path, accept...)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%w: %s has more than %d bytes", ErrWrongContent, path, most)
	}
	return data, err
}
