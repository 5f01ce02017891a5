package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/oci"
)

// Where things are below the registry's folder.
const (
	blobsDir        = "docker/registry/v2/blobs/sha256"
	repositoriesDir = "docker/registry/v2/repositories"
)

// maxParts bounds what one manifest may name; its bytes do so before.
const maxParts = 1 << 16

// Store is the folder of a registry that only this machine's root and the registry write to.
type Store struct {
	root *os.Root
	now  func() time.Time
}

// Open opens the registry's folder. The caller closes it.
func Open(dir string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the folder of the mirror's registry: %w", err)
	}
	return &Store{root: root, now: time.Now}, nil
}

// Close lets the folder go.
func (s *Store) Close() error { return s.root.Close() }

// Digests are kept without "sha256:", as the folders have them.

// contents are all that the registry has.
type contents struct {
	repositories []*repository
	blobs        map[string]blob
}

type blob struct {
	size    int64
	written time.Time
}

// repository is one image name.
type repository struct {
	name      string
	revisions map[string]*revision
	tags      map[string]tag
	layers    map[string]time.Time // blobs that can be pulled by this name, since when
	uploads   []upload
}

// revision is a manifest that can be pulled by this name.
type revision struct {
	pushed   time.Time
	manifest oci.Manifest
	err      error // why there is no manifest
	keep     bool
}

type tag struct {
	current string
	set     time.Time
	all     []string // every revision that it has named
}

type upload struct {
	path   string
	size   int64
	active time.Time
}

func (r *repository) path(below ...string) string {
	return path.Join(append([]string{repositoriesDir, r.name}, below...)...)
}

func blobDir(hex string) string { return path.Join(blobsDir, hex[:2], hex) }

// read looks at everything. What is none of the layout is passed over, and never removed.
func (s *Store) read(ctx context.Context) (contents, error) {
	c := contents{blobs: map[string]blob{}}
	for _, prefix := range s.folders(blobsDir) {
		for _, hex := range s.folders(path.Join(blobsDir, prefix)) {
			info, err := s.root.Stat(path.Join(blobsDir, prefix, hex, "data"))
			if err != nil || !isHex(hex) || prefix != hex[:2] {
				continue
			}
			c.blobs[hex] = blob{info.Size(), info.ModTime()}
		}
	}
	err := fs.WalkDir(s.root.FS(), repositoriesDir, func(at string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !d.IsDir() || !strings.HasPrefix(d.Name(), "_"):
			return nil
		case d.Name() == "_manifests":
			name := strings.TrimPrefix(path.Dir(at), repositoriesDir+"/")
			c.repositories = append(c.repositories, s.repository(name))
		}
		return fs.SkipDir // names of images have no part that begins like that
	})
	if err != nil {
		return c, fmt.Errorf("read what the mirror has: %w", err)
	}
	return c, nil
}

func (s *Store) repository(name string) *repository {
	r := &repository{name: name, revisions: map[string]*revision{}, tags: map[string]tag{}, layers: map[string]time.Time{}}
	for hex, at := range s.links(r.path("_manifests", "revisions", "sha256")) {
		m, err := s.manifest(hex)
		r.revisions[hex] = &revision{pushed: at, manifest: m, err: err}
	}
	for _, name := range s.folders(r.path("_manifests", "tags")) {
		link := r.path("_manifests", "tags", name, "current", "link")
		info, err := s.root.Stat(link)
		text, readErr := s.file(link, 256)
		hex, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "sha256:")
		if err != nil || readErr != nil || !ok {
			continue
		}
		t := tag{current: hex, set: info.ModTime(), all: []string{hex}}
		for former := range s.links(r.path("_manifests", "tags", name, "index", "sha256")) {
			t.all = append(t.all, former)
		}
		r.tags[name] = t
	}
	r.layers = s.links(r.path("_layers", "sha256"))
	for _, id := range s.folders(r.path("_uploads")) {
		u := upload{path: r.path("_uploads", id)}
		_ = fs.WalkDir(s.root.FS(), u.path, func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // it may end just now
			}
			if info, err := d.Info(); err == nil {
				if info.ModTime().After(u.active) {
					u.active = info.ModTime()
				}
				if info.Mode().IsRegular() {
					u.size += info.Size()
				}
			}
			return nil
		})
		r.uploads = append(r.uploads, u)
	}
	return r
}

// links of a folder DIGEST/link, with the times that they were made at.
func (s *Store) links(dir string) map[string]time.Time {
	all := map[string]time.Time{}
	for _, hex := range s.folders(dir) {
		if info, err := s.root.Stat(path.Join(dir, hex, "link")); err == nil && isHex(hex) {
			all[hex] = info.ModTime()
		}
	}
	return all
}

// folders in a folder; none when it is not there.
func (s *Store) folders(dir string) []string {
	entries, err := fs.ReadDir(s.root.FS(), dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func (s *Store) manifest(hex string) (oci.Manifest, error) {
	data, err := s.file(path.Join(blobDir(hex), "data"), oci.MaxManifest+1)
	if err != nil {
		return oci.Manifest{}, err
	}
	if have := oci.Digest(data).Hex; have != hex {
		return oci.Manifest{}, fmt.Errorf("it has the bytes of sha256:%s", have)
	}
	return oci.Parse(data, maxParts)
}

// file reads at most that many bytes.
func (s *Store) file(name string, most int64) ([]byte, error) {
	f, err := s.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

func isHex(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
