package oci

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Names and content of an image layout: image-layout.md of the image specification.
const (
	LayoutFile    = "oci-layout"
	LayoutContent = `{"imageLayoutVersion":"1.0.0"}`
	IndexFile     = "index.json"
	BlobFolder    = "blobs/sha256"
)

// Layout is the folder of an image layout.
type Layout string

// Blob is the path of a blob.
func (l Layout) Blob(d v1.Hash) string { return filepath.Join(string(l), "blobs", d.Algorithm, d.Hex) }

// Manifest reads a manifest or index that names at most that many parts. It is not hashed.
func (l Layout) Manifest(d v1.Hash, most int) (m Manifest, raw []byte, err error) {
	if raw, err = readFile(l.Blob(d)); err != nil {
		return m, nil, err
	}
	if m, err = Parse(raw, most); err != nil {
		return m, raw, fmt.Errorf("manifest %s: %w", d, err)
	}
	return m, raw, nil
}

// Index reads the index of the layout.
func (l Layout) Index() (Index, error) {
	var i Index
	data, err := readFile(filepath.Join(string(l), IndexFile))
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal(data, &i); err != nil {
		return i, fmt.Errorf("%s: %w: %w", IndexFile, ErrInvalid, err)
	}
	return i, nil
}

// readFile reads no more than a manifest may have.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxManifest+1))
	if err == nil && len(data) > MaxManifest {
		err = fmt.Errorf("%s: %w: more than %d bytes", filepath.Base(path), ErrInvalid, MaxManifest)
	}
	return data, err
}
