package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/oci"
)

// block is the unit of a tar.
const block = 512

// region is where an entry's content is in the file.
type region struct{ off, size int64 }

// end is where the next entry's header begins.
func (r region) end() int64 { return r.off + padded(r.size) }

func padded(n int64) int64 { return (n + block - 1) / block * block }

// header is the tar header of an entry: root's, of no particular time.
func header(name string, size int64) ([]byte, error) {
	if size > maxBlob {
		return nil, fmt.Errorf("%s has %d bytes; a bundle takes at most %d in one blob", name, size, int64(maxBlob))
	}
	var b bytes.Buffer
	h := &tar.Header{Name: name, Size: size, Mode: 0o644, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// readTable finds where every entry is, from the headers alone. r has size bytes. All that
// is no content must be as [header] writes it, or zero: so no byte of the file escapes.
func readTable(r io.ReaderAt, size int64, file string) (map[string]region, error) {
	table := map[string]region{}
	raw := make([]byte, block)
	for at := int64(0); ; {
		if at == 0 && size < block {
			return nil, fmt.Errorf("%s: %w: it has %d bytes", file, ErrNotBundle, size)
		}
		if at+block > size {
			return nil, truncated(file, size, at, "the next entry")
		}
		if _, err := r.ReadAt(raw, at); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		if isZero(raw) {
			if at == 0 {
				return nil, fmt.Errorf("%s: %w", file, ErrNotBundle)
			}
			if size-at < 2*block {
				return nil, truncated(file, size, at, "the end, of two empty blocks")
			}
			return table, zeros(r, at, size, file)
		}
		entry, err := parseHeader(raw)
		if err != nil {
			if at == 0 {
				return nil, fmt.Errorf("%s: %w: it does not begin with the header of a tar", file, ErrNotBundle)
			}
			return nil, &DamageError{File: file, Blob: "header of an entry", Offset: at, Length: block, Reason: err.Error()}
		}
		if at == 0 && entry.Name != oci.IndexFile {
			return nil, fmt.Errorf("%s: %w: it is an archive that begins with %q, not with %s", file, ErrNotBundle, entry.Name, oci.IndexFile)
		}
		where := region{at + block, entry.Size}
		if _, twice := table[entry.Name]; twice || len(table) >= maxBlobs {
			return nil, fmt.Errorf("%s: offset %d: %s is there twice, or there are more than %d entries: %w", file, at, entry.Name, maxBlobs, ErrNotBundle)
		}
		if where.end() > size {
			return nil, truncated(file, size, where.off, fmt.Sprintf("%s, which ends at %d", entry.Name, where.end()))
		}
		if err := zeros(r, where.off+where.size, where.end(), file); err != nil {
			return nil, err
		}
		table[entry.Name] = where
		at = where.end()
	}
}

// parseHeader reads one header and refuses all that this package never writes.
func parseHeader(raw []byte) (*tar.Header, error) {
	h, err := tar.NewReader(bytes.NewReader(raw)).Next()
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return nil, tar.ErrHeader // of a kind that goes on in the next blocks
	}
	if err != nil {
		return nil, err
	}
	digest, isBlob := strings.CutPrefix(h.Name, blobPrefix)
	switch {
	case h.Typeflag != tar.TypeReg:
		return nil, fmt.Errorf("%q is no regular file", h.Name)
	case isBlob && hexForm.MatchString(digest), h.Name == oci.IndexFile, h.Name == oci.LayoutFile, h.Name == signatureName:
		return h, nil
	}
	return nil, fmt.Errorf("%q has no place in a bundle", h.Name)
}

func truncated(file string, size, at int64, what string) error {
	return fmt.Errorf("%s is %w: it ends after %d bytes, and at offset %d is %s; copy the file again", file, ErrTruncated, size, at, what)
}

// zeros refuses bytes between from and to that are not zero. The end of the file has two
// empty blocks at least.
func zeros(r io.ReaderAt, from, to int64, file string) error {
	if to-from > 1<<20 {
		return &DamageError{File: file, Blob: "space after the last entry", Offset: from, Length: to - from, Reason: "more follows than a tar ends with"}
	}
	raw := make([]byte, to-from)
	if _, err := r.ReadAt(raw, from); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if !isZero(raw) {
		return &DamageError{File: file, Blob: "space between entries", Offset: from, Length: to - from, Reason: "it is not empty"}
	}
	return nil
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
