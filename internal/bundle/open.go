package bundle

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"github.com/orrery-dev/orrery/internal/oci"
)

// File is an open bundle: its index and manifests are read, whole and of one piece. Its
// layers are not read, and nobody said yet that the signature counts.
type File struct {
	name   string
	r      io.ReaderAt
	close  func() error
	size   int64
	table  map[string]region
	raw    []byte // index.json
	sig    signature
	sigRaw []byte
	*parsedIndex
}

// Open reads the index of a bundle. Errors wrap [ErrNotBundle], [ErrNewer], [ErrTruncated]
// or [ErrDamaged]. The caller closes it.
func Open(name string) (*File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w: it is no file", name, ErrNotBundle)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b, err := read(f, info.Size(), name)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b.close = f.Close
	return b, nil
}

// read is Open of anything that can be read at random.
func read(r io.ReaderAt, size int64, name string) (*File, error) {
	table, err := readTable(r, size, name)
	if err != nil {
		return nil, err
	}
	f := &File{name: name, r: r, size: size, table: table}
	if f.raw, err = f.small(oci.IndexFile, maxIndex); err != nil {
		return nil, err
	}
	if _, err := parseIndex(f.raw); errors.Is(err, ErrNewer) || errors.Is(err, ErrNotBundle) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if f.sigRaw, err = f.small(signatureName, maxSignature); err != nil {
		return nil, err
	}
	strict := json.NewDecoder(bytes.NewReader(f.sigRaw))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&f.sig); err != nil || len(bytes.TrimSpace(f.sigRaw[strict.InputOffset():])) > 0 || f.sig.PublicKey == "" {
		return nil, f.damage(signatureName, "", "it is not what this program writes")
	}
	if layout, err := f.small(oci.LayoutFile, 1024); err != nil {
		return nil, err
	} else if string(layout) != oci.LayoutContent {
		return nil, f.damage(oci.LayoutFile, "", "it is not what this program writes")
	}
	if f.parsedIndex, err = look(f.raw, f.manifestBlob); err != nil {
		if errors.Is(err, ErrDamaged) {
			return nil, err
		}
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, f.complete()
}

// complete checks that the file has every blob that the index names, and no other.
func (f *File) complete() error {
	for _, e := range f.sorted() {
		at, there := f.table[blobPrefix+e.digest]
		if !there {
			return fmt.Errorf("%s: %w: there is no blob sha256:%s of %s; copy the file again", f.name, ErrTruncated, e.digest, e.owner)
		}
		if at.size != e.size {
			return fmt.Errorf("%s: %w: blob sha256:%s of %s has %d bytes and should have %d; copy the file again", f.name, ErrDamaged, e.digest, e.owner, at.size, e.size)
		}
	}
	if extra := len(f.table) - len(f.entries) - 3; extra != 0 {
		for name := range f.table {
			if hex := name[max(0, len(name)-64):]; hexForm.MatchString(hex) && f.entries[hex].digest == "" {
				return fmt.Errorf("%s: %w: %s belongs to nothing in the index", f.name, ErrDamaged, name)
			}
		}
	}
	return nil
}

// Close lets the file go.
func (f *File) Close() error { return f.close() }

// Digest of the index: "sha256:…". It stands for all that is in the bundle.
func (f *File) Digest() string { return "sha256:" + f.digest }

// PublicKey is that of whoever claims to have signed, in PEM.
func (f *File) PublicKey() []byte { return []byte(f.sig.PublicKey) }

// Verify checks the signature with verify, which gets what was signed. Its error wraps
// [ErrSignature].
func (f *File) Verify(verify func(data, sig []byte) error) error {
	sig, err := base64.StdEncoding.DecodeString(f.sig.Signature)
	if err == nil {
		err = verify(f.raw, sig)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", f.name, ErrSignature, err)
	}
	return nil
}

// small reads a whole entry.
func (f *File) small(name string, limit int64) ([]byte, error) {
	at, there := f.table[name]
	if !there {
		return nil, fmt.Errorf("%s: %w: it has no %s", f.name, ErrNotBundle, name)
	}
	if at.size > limit {
		return nil, fmt.Errorf("%s: %s has %d bytes; at most %d are read", f.name, name, at.size, limit)
	}
	data := make([]byte, at.size)
	if _, err := f.r.ReadAt(data, at.off); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read %s: %w", f.name, err)
	}
	return data, nil
}

// manifestBlob reads a blob of the size of a manifest.
func (f *File) manifestBlob(d v1.Descriptor) ([]byte, error) {
	name := blobPrefix + d.Digest.Hex
	if _, there := f.table[name]; !there {
		return nil, fmt.Errorf("%w: the file has no %s", ErrTruncated, d.Digest)
	}
	data, err := f.small(name, oci.MaxManifest)
	if err != nil {
		return nil, err
	}
	if hexSum(data) != d.Digest.Hex {
		return nil, f.damage(name, "a manifest", "it has another SHA-256")
	}
	return data, nil
}

// open reads the content of a blob.
func (f *File) open(e entry) io.Reader {
	at := f.table[blobPrefix+e.digest]
	return io.NewSectionReader(f.r, at.off, at.size)
}

func (f *File) damage(name, owner, reason string) *DamageError {
	at := f.table[name]
	return &DamageError{File: f.name, Blob: blobName(name), Owner: owner, Offset: at.off, Length: at.size, Reason: reason}
}

func blobName(entry string) string {
	if hex := entry[max(0, len(entry)-64):]; hexForm.MatchString(hex) {
		return "sha256:" + hex
	}
	return entry
}

// locate finds out where a blob is damaged, by its checksums, and which file of a layer that
// hits. Without checksums, or when they are damaged too, it is the whole blob.
func (f *File) locate(e entry, reason string) *DamageError {
	d := f.damage(blobPrefix+e.digest, e.owner, reason)
	sums, err := f.checksums()
	pages, known := sums[e.digest]
	if err != nil || !known {
		return d
	}
	now := newDigester(true)
	if _, err := io.Copy(now, f.open(e)); err != nil {
		return d
	}
	is := now.finish()
	for i := range min(len(is), len(pages)) {
		if is[i] != pages[i] {
			from := int64(i) * page
			d.Offset, d.Length = f.table[blobPrefix+e.digest].off+from, min(page, e.size-from)
			if e.layer || e.kind == kindCatalog {
				d.Inside = fileAt(io.LimitReader(f.open(e), from))
			}
			break
		}
	}
	return d
}

func (f *File) checksums() (checksums, error) {
	if f.sums == nil {
		return nil, errors.New("the bundle has no checksums")
	}
	data, err := f.small(blobPrefix+f.sums.Digest.Hex, maxSums)
	if err != nil {
		return nil, err
	}
	if hexSum(data) != f.sums.Digest.Hex {
		return nil, errors.New("the checksums are damaged")
	}
	return decodeSums(data)
}

// fileAt is the last file of a compressed tar of which the beginning, r, says something.
func fileAt(r io.Reader) string {
	buffered := make([]byte, 4)
	n, _ := io.ReadFull(r, buffered)
	r = io.MultiReader(bytes.NewReader(buffered[:n]), r)
	if !bytes.Equal(buffered[:n], []byte{0x28, 0xb5, 0x2f, 0xfd}) {
		return "" // not zstd: gzip of an image from elsewhere
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return ""
	}
	defer z.Close()
	return lastName(z)
}
