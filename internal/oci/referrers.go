package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ErrNotFound is wrapped by errors of [Get] when the registry has no such thing.
var ErrNotFound = errors.New("not found")

// Get reads what a registry has under a path below /v2/NAME/, up to [MaxManifest] bytes.
type Get func(ctx context.Context, path string) ([]byte, error)

// ReferrersTag is the tag of the list of what refers to a manifest, in a registry without the
// referrers API: OCI distribution 1.1, "Referrers Tag Schema".
func ReferrersTag(digest string) string { return strings.Replace(digest, ":", "-", 1) }

// Referrers lists what refers to a manifest. byTag: the registry has no referrers API, and the
// list is an index under a tag, which clients write. distribution 3.1 has no API. An error that
// wraps [ErrInvalid] is about a list that is none. Anybody may attach something: how much of the
// list is read is for the caller to bound ([MaxReferrers]).
func Referrers(ctx context.Context, digest string, get Get) (list []v1.Descriptor, byTag bool, err error) {
	data, err := get(ctx, "referrers/"+digest)
	if errors.Is(err, ErrNotFound) {
		byTag = true
		if data, err = get(ctx, "manifests/"+ReferrersTag(digest)); errors.Is(err, ErrNotFound) {
			return nil, true, nil
		}
	}
	if err != nil {
		return nil, byTag, err
	}
	list, err = parseReferrers(data)
	return list, byTag, err
}

// parseReferrers leaves out what is no descriptor: what others attach cannot take an image's
// good name away.
func parseReferrers(data []byte) ([]v1.Descriptor, error) {
	var index struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("the list of referrers is no index: %w: %w", ErrInvalid, err)
	}
	var list []v1.Descriptor
	for _, raw := range index.Manifests {
		var d v1.Descriptor
		if json.Unmarshal(raw, &d) == nil && d.Digest.Algorithm == "sha256" {
			list = append(list, d)
		}
	}
	return list, nil
}
