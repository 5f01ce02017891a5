package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/klauspost/compress/zstd"
)

// Mismatch is the first place in which two images differ.
type Mismatch struct {
	// Where is "manifest", "configuration" or "layer N", counted from 0.
	Where string `json:"where"`
	// File is the path in the layer; empty when the difference is not in one file.
	File string `json:"file,omitempty"`
	// Offset of the first different byte of File or Where; -1 when What is no byte.
	Offset int64  `json:"offset"`
	What   string `json:"what"`
}

func (m *Mismatch) String() string {
	at := m.Where
	if m.File != "" {
		at += ", /" + m.File
	}
	if m.Offset >= 0 {
		at += fmt.Sprintf(", offset %d", m.Offset)
	}
	return at + ": " + m.What
}

// Compare returns the first difference of two images; nil when they are the same, byte
// for byte. Files are looked at before what describes them, since they are the cause.
func Compare(a, b Built) (*Mismatch, error) {
	if a.Digest == b.Digest {
		return nil, nil
	}
	ia, err := a.open()
	if err != nil {
		return nil, err
	}
	ib, err := b.open()
	if err != nil {
		return nil, err
	}
	la, err := ia.Layers()
	if err != nil {
		return nil, err
	}
	lb, err := ib.Layers()
	if err != nil {
		return nil, err
	}
	for i := range min(len(la), len(lb)) {
		where := fmt.Sprintf("layer %d", i)
		m, err := compareLayers(where, la[i], lb[i])
		if m != nil || err != nil {
			return m, err
		}
	}
	if len(la) != len(lb) {
		return &Mismatch{Where: "manifest", Offset: -1, What: fmt.Sprintf("%d layers and %d", len(la), len(lb))}, nil
	}
	for _, part := range []struct {
		where string
		raw   func(v1.Image) ([]byte, error)
	}{
		{"configuration", v1.Image.RawConfigFile}, {"manifest", v1.Image.RawManifest},
	} {
		ra, err := part.raw(ia)
		if err != nil {
			return nil, err
		}
		rb, err := part.raw(ib)
		if err != nil {
			return nil, err
		}
		if at := firstDifference(ra, rb); at >= 0 {
			return &Mismatch{Where: part.where, Offset: int64(at), What: fmt.Sprintf("%q and %q", excerpt(ra, at), excerpt(rb, at))}, nil
		}
	}
	return nil, fmt.Errorf("digests %s and %s differ and their content does not: the store is damaged", a.Digest, b.Digest)
}

// CompareFiles is Compare for two files.
func CompareFiles(a, b string) (*Mismatch, error) {
	fa, err := os.Open(a)
	if err != nil {
		return nil, err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return nil, err
	}
	defer fb.Close()
	at, ca, cb, err := firstDifferentByte(fa, fb)
	if err != nil || at < 0 {
		return nil, err
	}
	return &Mismatch{Where: filepath.Base(a), Offset: at, What: ca + " and " + cb}, nil
}

func (b Built) open() (v1.Image, error) {
	digest, err := v1.NewHash(b.Digest)
	if err != nil {
		return nil, err
	}
	img, err := ggcrlayout.Path(b.Layout).Image(digest)
	if err != nil {
		return nil, fmt.Errorf("open image %s:%s in %s: %w", b.Name, b.Version, b.Layout, err)
	}
	return img, nil
}

func compareLayers(where string, a, b v1.Layer) (*Mismatch, error) {
	da, err := a.Digest()
	if err != nil {
		return nil, err
	}
	db, err := b.Digest()
	if err != nil || da == db {
		return nil, err
	}
	ra, err := openLayer(a)
	if err != nil {
		return nil, err
	}
	defer func() { _ = ra.Close() }()
	rb, err := openLayer(b)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rb.Close() }()
	for {
		ha, ea := ra.Next()
		hb, eb := rb.Next()
		if errors.Is(ea, io.EOF) && errors.Is(eb, io.EOF) {
			return &Mismatch{Where: where, Offset: -1, What: "the same files, packed or compressed in another way"}, nil
		}
		if errors.Is(ea, io.EOF) {
			return &Mismatch{Where: where, File: hb.Name, Offset: -1, What: "only the second has it"}, nil
		}
		if errors.Is(eb, io.EOF) {
			return &Mismatch{Where: where, File: ha.Name, Offset: -1, What: "only the first has it"}, nil
		}
		if err := errors.Join(ea, eb); err != nil {
			return nil, err
		}
		if ha.Name != hb.Name {
			return &Mismatch{Where: where, File: ha.Name, Offset: -1, What: "the second has " + hb.Name + " in its place"}, nil
		}
		at, ca, cb, err := firstDifferentByte(ra, rb)
		if err != nil {
			return nil, err
		}
		if at >= 0 {
			return &Mismatch{Where: where, File: ha.Name, Offset: at, What: fmt.Sprintf("%s and %s (%d and %d bytes)", ca, cb, ha.Size, hb.Size)}, nil
		}
		if x, y := attributes(ha), attributes(hb); x != y {
			return &Mismatch{Where: where, File: ha.Name, Offset: -1, What: x + " and " + y}, nil
		}
	}
}

// attributes are what a header says besides name and size.
func attributes(h *tar.Header) string {
	s := fmt.Sprintf("type %c, mode %o, owner %d:%d, time %d", h.Typeflag, h.Mode, h.Uid, h.Gid, h.ModTime.Unix())
	if h.Linkname != "" {
		s += ", link to " + h.Linkname
	}
	return s
}

// layerReader reads the files of a layer.
type layerReader struct {
	*tar.Reader
	close func() error
}

func (l layerReader) Close() error { return l.close() }

// openLayer opens a layer of our own making, which is zstd, or any other that the
// library knows how to uncompress.
func openLayer(l v1.Layer) (*layerReader, error) {
	mediaType, err := l.MediaType()
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(string(mediaType), "+zstd") {
		plain, err := l.Uncompressed()
		if err != nil {
			return nil, err
		}
		return &layerReader{tar.NewReader(plain), plain.Close}, nil
	}
	compressed, err := l.Compressed()
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(compressed, zstd.WithDecoderConcurrency(1))
	if err != nil {
		compressed.Close()
		return nil, err
	}
	return &layerReader{tar.NewReader(z), func() error {
		z.Close()
		return compressed.Close()
	}}, nil
}

// firstDifferentByte reads both to the end or to the first byte that differs, and says
// what stands there; -1 when there is none.
func firstDifferentByte(a, b io.Reader) (at int64, ca, cb string, err error) {
	const size = 1 << 16
	ba, bb := make([]byte, size), make([]byte, size)
	for {
		na, ea := io.ReadFull(a, ba)
		nb, eb := io.ReadFull(b, bb)
		for _, err := range []error{ea, eb} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return 0, "", "", err
			}
		}
		if i := firstDifference(ba[:na], bb[:nb]); i >= 0 {
			return at + int64(i), byteAt(ba[:na], i), byteAt(bb[:nb], i), nil
		}
		if na < size {
			return -1, "", "", nil
		}
		at += size
	}
}

func byteAt(b []byte, i int) string {
	if i >= len(b) {
		return "the end"
	}
	return fmt.Sprintf("0x%02x", b[i])
}

// firstDifference is an index, -1 when a and b are equal.
func firstDifference(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func excerpt(b []byte, at int) string { return string(b[max(0, at-20):min(len(b), at+20)]) }
