package image

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/oci"
)

// layout is an OCI image layout (image-layout.md of the OCI image specification): other
// tools can read it. Beside it, keys/KEY says which image a key became.
type layout struct {
	dir  string
	arch string // of its images; empty is this machine's
}

func (l layout) blob(d v1.Hash) string    { return oci.Layout(l.dir).Blob(d) }
func (l layout) record(key string) string { return filepath.Join(l.dir, "keys", key+".json") }
func (l layout) index() string            { return filepath.Join(l.dir, oci.IndexFile) }

// record is what keys/KEY.json holds.
type record struct {
	Built
	Blobs []blobSize `json:"blobs"`
	// Referrers are attached to an image that was pulled; their blobs are among Blobs.
	Referrers []v1.Descriptor `json:"referrers,omitempty"`
}

type blobSize struct {
	Digest v1.Hash `json:"digest"`
	Size   int64   `json:"size"`
}

// lookup returns the image that key became, if all of it is still there.
func (l layout) lookup(key string) (Built, bool) {
	data, err := os.ReadFile(l.record(key))
	if err != nil {
		return Built{}, false
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil || len(r.Blobs) == 0 || r.Blobs[0].Digest.String() != r.Digest {
		return Built{}, false // the manifest comes first
	}
	for _, b := range r.Blobs {
		if !exists(l.blob(b.Digest), b.Size) {
			return Built{}, false
		}
	}
	r.Layout = l.dir
	return r.Built, true
}

// made is lookup for what was made here, which is opened by the index: one that was damaged, or is
// of another copy of the store, lists it no more, and it is made again.
func (l layout) made(key string) (Built, bool) {
	built, ok := l.lookup(key)
	if !ok {
		return Built{}, false
	}
	index, err := l.readIndex()
	listed := func(d v1.Descriptor) bool { return d.Digest.String() == built.Digest }
	return built, err == nil && slices.ContainsFunc(index.Manifests, listed)
}

// lock keeps others from changing the layout, or, shared, from removing what is read.
func (l layout) lock(ctx context.Context, how int) (unlock func(), err error) {
	f, err := filelock.Wait(ctx, filepath.Join(l.dir, ".lock"), how, nil)
	if err != nil {
		return nil, fmt.Errorf("lock the image store: %w", err)
	}
	return func() { f.Close() }, nil
}

// addBlob stores what write writes under its digest. Only a whole blob gets its name.
func (l layout) addBlob(write func(io.Writer) error) (v1.Descriptor, error) {
	dir := filepath.Join(l.dir, "blobs", "sha256")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return v1.Descriptor{}, err
	}
	f, err := os.CreateTemp(l.dir, ".blob-*")
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	digest := sha256.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(f, digest), 1<<20)
	if err := errors.Join(write(buffered), buffered.Flush()); err != nil {
		return v1.Descriptor{}, err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync()); err != nil {
		return v1.Descriptor{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{Digest: sum(digest), Size: info.Size()}
	return d, os.Rename(f.Name(), l.blob(d.Digest))
}

// commit makes the image findable: in the index for everybody, by key for us. An image
// of the same name and version that it replaces is removed, with the blobs that nothing
// else needs. The caller holds the lock.
func (l layout) commit(key string, built Built, d v1.Descriptor, m v1.Manifest) error {
	r := record{Built: built, Blobs: []blobSize{{d.Digest, d.Size}, {m.Config.Digest, m.Config.Size}}}
	for _, layer := range m.Layers {
		r.Blobs = append(r.Blobs, blobSize{layer.Digest, layer.Size})
	}
	index, err := l.enter(built, d)
	if err != nil {
		return err
	}
	if err := l.collect(index); err != nil {
		return err
	}
	return l.note(key, r)
}

// keep makes a pulled image findable, as commit does. What it replaces stays until prune:
// somebody may be pulling. The caller holds the lock.
func (l layout) keep(key string, built Built, c content) error {
	for _, b := range c.blobs {
		if !exists(l.blob(b.Digest), b.Size) {
			return fmt.Errorf("image %s: blob %s is gone again from %s; is something else cleaning up there?", built.Name, b.Digest, l.dir)
		}
	}
	if _, err := l.enter(built, c.top); err != nil {
		return err
	}
	return l.note(key, record{Built: built, Blobs: c.blobs, Referrers: c.referrers})
}

// note writes which image a key became.
func (l layout) note(key string, r record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return l.writeFile(l.record(key), data)
}

// enter names an image in the layout's index, in place of another one of its name and version.
func (l layout) enter(built Built, d v1.Descriptor) (oci.Index, error) {
	index, err := l.readIndex()
	if err != nil {
		return index, err
	}
	ref := built.Name + ":" + built.Version
	d.Annotations = map[string]string{oci.RefName: ref}
	d.Platform = &v1.Platform{OS: "linux", Architecture: cmp.Or(l.arch, runtime.GOARCH)}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(old v1.Descriptor) bool { return old.Annotations[oci.RefName] == ref })
	index.Manifests = append(index.Manifests, d)
	slices.SortFunc(index.Manifests, func(a, b v1.Descriptor) int {
		return strings.Compare(a.Annotations[oci.RefName], b.Annotations[oci.RefName])
	})
	if err := l.writeFile(filepath.Join(l.dir, oci.LayoutFile), []byte(oci.LayoutContent)); err != nil {
		return index, err
	}
	return index, l.writeIndex(index)
}

func (l layout) writeIndex(index oci.Index) error {
	data, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	return l.writeFile(l.index(), data)
}

func (l layout) readIndex() (oci.Index, error) {
	index, err := oci.Layout(l.dir).Index()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, oci.ErrInvalid) {
		// It lists what can be made again; start over.
		return oci.Index{SchemaVersion: 2, MediaType: types.OCIImageIndex}, nil
	}
	return index, err
}

// collect removes blobs, records and temporary files that no image of the index needs.
func (l layout) collect(index oci.Index) error {
	needed := map[string]bool{}
	keys, _ := filepath.Glob(l.record("*"))
	for _, k := range keys { // what was pulled: indexes, and what is attached
		var r record
		if data, err := os.ReadFile(k); err != nil || json.Unmarshal(data, &r) != nil {
			continue
		}
		if slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Digest.String() == r.Digest }) {
			for _, b := range r.Blobs {
				needed[b.Digest.Hex] = true
			}
		}
	}
	for _, d := range index.Manifests {
		needed[d.Digest.Hex] = true
		m, _, err := oci.Layout(l.dir).Manifest(d.Digest, oci.MaxLayers)
		if err != nil {
			continue // its key's lookup fails too: made again when wanted
		}
		for _, b := range m.Blobs() {
			needed[b.Digest.Hex] = true
		}
	}
	blobs := filepath.Join(l.dir, "blobs", "sha256")
	entries, err := os.ReadDir(blobs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // nothing was ever stored
		return err
	}
	for _, e := range entries {
		if !needed[e.Name()] {
			if err := os.Remove(filepath.Join(blobs, e.Name())); err != nil {
				return err
			}
		}
	}
	entries, err = os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".blob-") { // of killed processes: we hold the lock
			os.Remove(filepath.Join(l.dir, e.Name()))
		}
	}
	notes, _ := filepath.Glob(l.filesNote("*"))
	for _, n := range notes {
		if !needed[strings.TrimSuffix(filepath.Base(n), ".json")] {
			os.Remove(n)
		}
	}
	for _, k := range keys {
		if _, ok := l.lookup(strings.TrimSuffix(filepath.Base(k), ".json")); !ok {
			os.Remove(k)
		}
	}
	return nil
}

// writeFile replaces a file in one step, unless it holds data already.
func (l layout) writeFile(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(data) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomicfile.Replace(path, func(tmp string) error {
		if err := os.WriteFile(tmp, data, 0o644); err != nil {
			return err
		}
		return disk.Sync(tmp)
	})
}
