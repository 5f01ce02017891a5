package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/oci"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Contents is what goes into a bundle.
type Contents struct {
	Platform   string   // "linux/amd64"
	Overlay    string   // that Components are of
	Components []string // what `up` deploys when the environment names nothing itself
	// Root is the repository; Files of it, with slashes, are the catalogue.
	Root  string
	Files []string
	// Extra are files of the catalogue that Root does not have, by name.
	Extra map[string][]byte
	// Lock takes the place of Root's: it has just what is in the bundle.
	Lock []byte
	// Programs of the node distribution.
	Programs []Program
	// ProgramDocuments are the documents of those programs.
	ProgramDocuments []ProgramDocument
	// Images, each in the OCI layout that it names.
	Images []image.Built
	// Attached to the images: signatures and documents.
	Attached []Attached
}

// Program is a file of the node distribution.
type Program struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"` // hexadecimal
	Size   int64  `json:"size"`   // bytes, unpacked; set by what reads a bundle
	// Attached are the types of its documents; set by what reads a bundle.
	Attached []string `json:"attached,omitempty"`
	Path     string   `json:"-"` // where it is now
}

// ProgramDocument is a document of a program: its bill of materials, or its provenance.
type ProgramDocument struct {
	Program string
	Type    string // media type
	Data    []byte
}

// CreateOptions of [Create].
type CreateOptions struct {
	// Sign signs the index. Required.
	Sign func([]byte) ([]byte, error)
	// PublicKey in PEM, of the key that signs; it goes into the file.
	PublicKey []byte
	Sink      ui.Sink // progress; nil drops it
	Workers   int     // 0: one for each core
}

// Create writes a bundle. The same contents give the same file, apart from the signature.
// file is there when all of it is on the disk, and not before; meanwhile file.partial grows,
// which is removed when ctx ends or something fails.
func Create(ctx context.Context, file string, c Contents, o CreateOptions) (err error) {
	partial := file + ".partial"
	f, err := filelock.Try(partial, filelock.Exclusive)
	if errors.Is(err, filelock.ErrLocked) {
		return fmt.Errorf("another process is writing %s", partial)
	}
	if err != nil {
		return fmt.Errorf("write a bundle: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write the bundle %s: %w", file, full(err)), os.Remove(partial))
		}
		f.Close()
	}()
	if err := f.Truncate(0); err != nil {
		return err
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	w := &writer{f: f, opts: o, sums: checksums{}, blobs: map[string]blob{}}
	if err := w.write(ctx, c); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync()); err != nil {
		return err
	}
	if err := os.Rename(partial, file); err != nil {
		return err
	}
	return disk.Sync(filepath.Dir(file))
}

// blob is something whose digest is known before it is written.
type blob struct {
	digest string // hexadecimal
	size   int64
	data   []byte // or
	path   string
}

// writer writes one bundle. Blobs of known size have their place from the beginning and
// are copied side by side; what is compressed goes after them, as it comes.
type writer struct {
	f     *os.File
	opts  CreateOptions
	sums  checksums
	blobs map[string]blob
	order []string // of blobs
	next  int64    // where the next header goes
	meter *meter
}

func (w *writer) write(ctx context.Context, c Contents) error {
	idx := oci.Index{
		SchemaVersion: 2, MediaType: types.OCIImageIndex, ArtifactType: typeBundle,
		Annotations: map[string]string{
			noteFormat: strconv.Itoa(Format), notePlatform: c.Platform, noteOverlay: c.Overlay,
			noteParts: strings.Join(c.Components, ","), noteLock: hexSum(c.Lock),
		},
	}
	images, err := w.collect(c)
	if err != nil {
		return err
	}
	made := []v1.Descriptor{artifact(typeCatalog, v1.Descriptor{}), artifact(typeNodes, v1.Descriptor{}), artifact(typeSums, v1.Descriptor{})}
	placeholder := v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}
	for i := range made {
		made[i].Digest, made[i].Size = placeholder, maxBlob
	}
	idx.Manifests = slices.Concat(made, images)
	widest, err := json.MarshalIndent(idx, "", " ")
	if err != nil {
		return err
	}
	indexAt, err := w.place(oci.IndexFile, int64(len(widest))+1)
	if err != nil {
		return err
	}
	layoutAt, err := w.place(oci.LayoutFile, int64(len(oci.LayoutContent)))
	if err != nil {
		return err
	}
	signatureAt, err := w.place(signatureName, signatureSize)
	if err != nil {
		return err
	}
	if _, err := w.f.WriteAt([]byte(oci.LayoutContent), layoutAt.off); err != nil {
		return err
	}
	if err := w.fill(ctx, c, idx.Manifests[:3]); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(idx, "", " ")
	if err != nil {
		return err
	}
	if len(raw) > maxIndex || int64(len(raw)) >= indexAt.size {
		return fmt.Errorf("its index would have %d bytes: too many", len(raw))
	}
	// White space at the end keeps the place that was left for it.
	raw = append(raw, bytes.Repeat([]byte("\n"), int(indexAt.size)-len(raw))...)
	sig, err := w.opts.Sign(raw)
	if err != nil {
		return fmt.Errorf("sign it: %w", err)
	}
	signed, err := json.Marshal(signature{PublicKey: string(w.opts.PublicKey), Signature: encodeSignature(sig)})
	if err != nil {
		return err
	}
	if len(signed) > signatureSize {
		return fmt.Errorf("the signature has %d bytes; there is room for %d", len(signed), signatureSize)
	}
	signed = append(signed, bytes.Repeat([]byte("\n"), signatureSize-len(signed))...)
	for at, data := range map[region][]byte{indexAt: raw, signatureAt: signed} {
		if _, err := w.f.WriteAt(data, at.off); err != nil {
			return err
		}
	}
	w.meter.finish()
	return w.f.Truncate(w.next + 2*block)
}

// fill writes all blobs, and completes the descriptors of those artifacts that are made on
// the way: catalogue, distribution, checksums.
func (w *writer) fill(ctx context.Context, c Contents, made []v1.Descriptor) error {
	type placed struct {
		blob
		at region
	}
	var known []placed
	var total int64
	for _, d := range w.order {
		b := w.blobs[d]
		at, err := w.place(blobPrefix+d, b.size)
		if err != nil {
			return err
		}
		known = append(known, placed{b, at})
		total += b.size
	}
	files, err := catalogTar(c)
	if err != nil {
		return err
	}
	total += int64(len(files))
	sources := []source{{name: "the catalogue", open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil }}}
	for _, p := range c.Programs {
		info, err := os.Stat(p.Path)
		if err != nil {
			return err
		}
		total += info.Size()
		sources = append(sources, source{name: "program " + p.Name, sha256: p.SHA256, open: func() (io.ReadCloser, error) { return os.Open(p.Path) }})
	}
	w.meter = newMeter(w.opts.Sink, "create", total)
	sums := make([][]uint32, len(known))
	var results []packed
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		var err error
		results, err = w.compress(gctx, sources)
		return err
	})
	slots := make(chan struct{}, w.opts.Workers)
	for i, k := range known {
		g.Go(func() error {
			slots <- struct{}{}
			defer func() { <-slots }()
			var err error
			sums[i], err = w.copyBlob(gctx, k.blob, k.at)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, k := range known {
		w.sums[k.digest] = sums[i]
	}
	layer := func(r packed, mediaType types.MediaType, notes map[string]string) v1.Descriptor {
		notes[noteSHA256], notes[noteSize] = r.plainSHA, strconv.FormatInt(r.plainBytes, 10)
		return v1.Descriptor{MediaType: mediaType, Digest: v1.Hash{Algorithm: "sha256", Hex: r.digest}, Size: r.size, Annotations: notes}
	}
	catalog := layer(results[0], types.OCILayerZStd, map[string]string{oci.Title: "catalogue"})
	if made[0], err = w.artifact(typeCatalog, catalog); err != nil {
		return err
	}
	var programs []v1.Descriptor
	for i, r := range results[1:] {
		programs = append(programs, layer(r, typeProgram, map[string]string{oci.Title: c.Programs[i].Name}))
	}
	if made[1], err = w.artifact(typeNodes, programs...); err != nil {
		return err
	}
	table := w.sums.encode()
	d := oci.Describe(typeSums, table)
	if err := w.append(d.Digest.Hex, table); err != nil {
		return err
	}
	made[2], err = w.artifact(typeSums, d)
	return err
}

func (w *writer) add(b blob) {
	if _, there := w.blobs[b.digest]; !there {
		w.blobs[b.digest] = b
		w.order = append(w.order, b.digest)
	}
}

// artifact writes a manifest of ours behind everything else.
func (w *writer) artifact(kind string, layers ...v1.Descriptor) (v1.Descriptor, error) {
	data, err := json.Marshal(oci.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: kind, Config: oci.Empty(), Layers: layers})
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := oci.Describe(types.OCIManifestSchema1, data)
	return artifact(kind, d), w.append(d.Digest.Hex, data)
}

func artifact(kind string, d v1.Descriptor) v1.Descriptor {
	d.MediaType, d.ArtifactType = types.OCIManifestSchema1, kind
	return d
}

// place writes the header of the next entry and says where its content goes.
func (w *writer) place(name string, size int64) (region, error) {
	h, err := header(name, size)
	if err != nil {
		return region{}, err
	}
	if _, err := w.f.WriteAt(h, w.next); err != nil {
		return region{}, err
	}
	at := region{w.next + block, size}
	w.next = at.end()
	return at, nil
}

// append writes a whole blob as the next entry.
func (w *writer) append(digest string, data []byte) error {
	at, err := w.place(blobPrefix+digest, int64(len(data)))
	if err != nil {
		return err
	}
	d := newDigester(true)
	_, _ = d.Write(data)
	w.sums[digest] = d.finish()
	_, err = w.f.WriteAt(data, at.off)
	return err
}

// copyBlob writes one blob to its place while it is hashed, and returns its checksums.
func (w *writer) copyBlob(ctx context.Context, b blob, at region) ([]uint32, error) {
	var r io.Reader = bytes.NewReader(b.data)
	if b.data == nil {
		f, err := os.Open(b.path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = io.LimitReader(f, b.size+1)
	}
	d := newDigester(true)
	out := &flusher{f: w.f, at: at.off}
	if _, err := io.CopyBuffer(io.MultiWriter(out, d, w.meter), cancellable{ctx, r}, make([]byte, copyBuffer)); err != nil {
		return nil, err
	}
	if d.size != b.size || d.hex() != b.digest {
		return nil, fmt.Errorf("blob sha256:%s: what %s holds is something else: the cache is damaged;"+
			" remove the file and build the image again", b.digest, b.path)
	}
	return d.finish(), nil
}

// compress writes the sources behind what is there.
func (w *writer) compress(ctx context.Context, sources []source) ([]packed, error) {
	var results []packed
	var out *flusher
	var d *digester
	begin := func(source) error {
		out, d = &flusher{f: w.f, at: w.next + block}, newDigester(true)
		return nil
	}
	frame := func(data []byte) error {
		_, _ = d.Write(data)
		_, err := out.Write(data)
		return err
	}
	end := func(p packed) error {
		results = append(results, p)
		if _, twice := w.sums[p.digest]; twice { // the same program under two names
			return w.f.Truncate(w.next)
		}
		w.sums[p.digest] = d.finish()
		_, err := w.place(blobPrefix+p.digest, p.size)
		return err
	}
	for i := range sources {
		open := sources[i].open
		sources[i].open = func() (io.ReadCloser, error) {
			r, err := open()
			if err != nil {
				return nil, err
			}
			return struct {
				io.Reader
				io.Closer
			}{io.TeeReader(r, w.meter), r}, nil
		}
	}
	err := pack(ctx, sources, w.opts.Workers, begin, frame, end)
	return results, err
}

func hexSum(data []byte) string { return oci.Digest(data).Hex }
