package build

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Mismatch is the first place in which two programs or images differ.
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

// CompareFiles returns the first byte in which two files differ; nil when they are the same.
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
	at, ca, cb, err := FirstDifference(fa, fb)
	if err != nil || at < 0 {
		return nil, err
	}
	return &Mismatch{Where: filepath.Base(a), Offset: at, What: ca + " and " + cb}, nil
}

// FirstDifference reads both to the end or to the first byte that differs, and says
// what stands there; -1 when there is none.
func FirstDifference(a, b io.Reader) (at int64, ca, cb string, err error) {
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
