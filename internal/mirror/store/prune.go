package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// grace is for how long something stays that may be a part of a push that is under way: a blob
// that no manifest names yet, a manifest that no tag and no index names yet, an upload.
const grace = time.Hour

// Pruned is what [Store.Prune] removed, or would remove. Its JSON is a contract.
type Pruned struct {
	Manifests []Manifest `json:"manifests"`
	// Blobs is how many were removed, manifests among them.
	Blobs int `json:"blobs"`
	// Bytes that were freed, and Left, those that the registry's blobs have afterwards.
	Bytes int64 `json:"bytes"`
	Left  int64 `json:"left"`
}

// Manifest is one that goes.
type Manifest struct {
	Image string   `json:"image"`          // NAME@DIGEST
	Tags  []string `json:"tags,omitempty"` // that named it once
}

// Prune removes every manifest that no tag reaches and that is not in use, what is attached to it,
// and then the blobs that no manifest names. inUse are digests, "sha256:…", of manifests or of
// their configurations. What a push may be about to name stays for an hour; the caller has pushes
// wait meanwhile. With dryRun it only says what would go. Where it cannot tell what something that
// stays consists of, it removes nothing and says so. An error in the middle leaves what is whole,
// and the rest for the next time.
func (s *Store) Prune(ctx context.Context, inUse []string, dryRun bool) (Pruned, error) {
	p := Pruned{Manifests: []Manifest{}}
	c, err := s.read(ctx)
	if err != nil {
		return p, err
	}
	used := map[string]bool{}
	for _, digest := range inUse {
		used[strings.TrimPrefix(digest, "sha256:")] = true
	}
	young := func(at time.Time) bool { return s.now().Sub(at) < grace }
	needed, freed := map[string]bool{}, map[string]bool{} // blobs of what stays, and of what goes
	var links, blobs []string                             // to remove
	for _, r := range c.repositories {
		r.decide(used, young)
		here, gone := map[string]bool{}, map[string]bool{}
		for hex, rev := range r.revisions {
			if rev.keep && rev.err != nil {
				return p, fmt.Errorf("nothing is removed: what %s@sha256:%s needs cannot be told: %w; "+
					"push it again, or delete it, and prune then", r.name, hex, rev.err)
			}
			set := gone
			if rev.keep {
				set = here
			}
			set[hex] = true
			for _, b := range rev.manifest.Blobs() {
				set[b.Digest.Hex] = true
			}
		}
		for hex, at := range r.layers {
			if !here[hex] && (gone[hex] || !young(at)) {
				links = append(links, r.path("_layers", "sha256", hex))
			} else {
				here[hex] = true
			}
		}
		maps.Copy(needed, here)
		maps.Copy(freed, gone)
		links = append(r.drop(&p), links...) // manifests before what they name
		for _, u := range r.uploads {
			if !young(u.active) {
				links, p.Bytes = append(links, u.path), p.Bytes+u.size
			}
		}
	}
	for hex, b := range c.blobs {
		if needed[hex] || !freed[hex] && young(b.written) {
			p.Left += b.size
			continue
		}
		blobs = append(blobs, blobDir(hex))
		p.Blobs, p.Bytes = p.Blobs+1, p.Bytes+b.size
	}
	slices.SortFunc(p.Manifests, func(a, b Manifest) int { return cmp.Compare(a.Image, b.Image) })
	if dryRun {
		return p, nil
	}
	var errs []error
	for _, at := range append(links, blobs...) {
		if ctx.Err() != nil {
			return p, context.Cause(ctx)
		}
		errs = append(errs, s.root.RemoveAll(at))
	}
	if err := errors.Join(errs...); err != nil {
		return p, fmt.Errorf("prune the mirror: %w", err)
	}
	return p, nil
}

// attached is the tag of what is attached to a manifest where a registry keeps no list of that
// (oci.ReferrersTag), or as cosign before version 3 names it.
var attached = regexp.MustCompile(`^sha256-([0-9a-f]{64})(\.[a-z]+)?$`)

// decide marks the revisions that stay.
func (r *repository) decide(used map[string]bool, young func(time.Time) bool) {
	tagged, parts := map[string]bool{}, map[string]bool{}
	for _, t := range r.tags {
		for _, hex := range t.all {
			tagged[hex] = true
		}
	}
	for _, rev := range r.revisions {
		for _, d := range rev.manifest.Manifests {
			parts[d.Digest.Hex] = true
		}
	}
	var keep func(hex string)
	keep = func(hex string) {
		rev := r.revisions[hex]
		if rev == nil || rev.keep {
			return
		}
		rev.keep = true
		for _, d := range rev.manifest.Manifests {
			keep(d.Digest.Hex)
		}
		for name, t := range r.tags {
			if m := attached.FindStringSubmatch(name); m != nil && m[1] == hex {
				keep(t.current)
			}
		}
		for other, about := range r.revisions {
			if about.manifest.Subject != nil && about.manifest.Subject.Digest.Hex == hex {
				keep(other)
			}
		}
	}
	for name, t := range r.tags {
		m := attached.FindStringSubmatch(name)
		if m == nil || r.revisions[m[1]] == nil && young(t.set) {
			keep(t.current)
		}
	}
	for hex, rev := range r.revisions {
		about := rev.manifest.Subject != nil && r.revisions[rev.manifest.Subject.Digest.Hex] != nil
		configuration := rev.manifest.Config != nil && used[rev.manifest.Config.Digest.Hex]
		if used[hex] || configuration || !tagged[hex] && !parts[hex] && !about && young(rev.pushed) {
			keep(hex)
		}
	}
}

// drop lists the folders that make up the revisions that go, tags first.
func (r *repository) drop(p *Pruned) []string {
	var folders []string
	was := map[string][]string{}
	for name, t := range r.tags {
		tags := r.path("_manifests", "tags", name)
		if rev := r.revisions[t.current]; rev != nil && !rev.keep {
			folders = append(folders, tags) // of what is attached to something that goes
		}
		for _, hex := range slices.Compact(slices.Sorted(slices.Values(t.all))) {
			if rev := r.revisions[hex]; rev == nil || rev.keep {
				continue
			}
			folders = append(folders, path.Join(tags, "index", "sha256", hex))
			was[hex] = append(was[hex], name)
		}
	}
	for hex, rev := range r.revisions {
		if !rev.keep {
			folders = append(folders, r.path("_manifests", "revisions", "sha256", hex))
			slices.Sort(was[hex])
			p.Manifests = append(p.Manifests, Manifest{r.name + "@sha256:" + hex, was[hex]})
		}
	}
	return folders
}
