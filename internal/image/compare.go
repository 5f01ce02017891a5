package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/klauspost/compress/zstd"

	"github.com/orrery-dev/orrery/internal/build"
)

// Compare returns the first difference of two images; nil when they are the same, byte
// for byte. Files are looked at before what describes them, since they are the cause.
func Compare(a, b Built) (*build.Mismatch, error) {
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
		return &build.Mismatch{Where: "manifest", Offset: -1, What: fmt.Sprintf("%d layers and %d", len(la), len(lb))}, nil
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
		at, _, _, err := build.FirstDifference(bytes.NewReader(ra), bytes.NewReader(rb))
		if err != nil {
			return nil, err
		}
		if at >= 0 {
			return &build.Mismatch{Where: part.where, Offset: at, What: fmt.Sprintf("%q and %q", excerpt(ra, int(at)), excerpt(rb, int(at)))}, nil
		}
	}
	return nil, fmt.Errorf("digests %s and %s differ and their content does not: the store is damaged", a.Digest, b.Digest)
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

func compareLayers(where string, a, b v1.Layer) (*build.Mismatch, error) {
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
			return &build.Mismatch{Where: where, Offset: -1, What: "the same files, packed or compressed in another way"}, nil
		}
		if errors.Is(ea, io.EOF) {
			return &build.Mismatch{Where: where, File: hb.Name, Offset: -1, What: "only the second has it"}, nil
		}
		if errors.Is(eb, io.EOF) {
			return &build.Mismatch{Where: where, File: ha.Name, Offset: -1, What: "only the first has it"}, nil
		}
		if err := errors.Join(ea, eb); err != nil {
			return nil, err
		}
		if ha.Name != hb.Name {
			return &build.Mismatch{Where: where, File: ha.Name, Offset: -1, What: "the second has " + hb.Name + " in its place"}, nil
		}
		at, ca, cb, err := build.FirstDifference(ra, rb)
		if err != nil {
			return nil, err
		}
		if at >= 0 {
			return &build.Mismatch{Where: where, File: ha.Name, Offset: at, What: fmt.Sprintf("%s and %s (%d and %d bytes)", ca, cb, ha.Size, hb.Size)}, nil
		}
		if x, y := attributes(ha), attributes(hb); x != y {
			return &build.Mismatch{Where: where, File: ha.Name, Offset: -1, What: x + " and " + y}, nil
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

func excerpt(b []byte, at int) string { return string(b[max(0, at-20):min(len(b), at+20)]) }
