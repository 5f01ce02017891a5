package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// Mend removes blobs whose bytes are not those of their names, and says which; digests, "sha256:…", are looked at.
// A registry believes its disk: it serves what is there, and takes nothing that it has. After that it takes it
// anew. What names such a blob stays, so that a push of the same puts all right.
func (s *Store) Mend(ctx context.Context, digests []string) (removed []string, err error) {
	for _, digest := range digests {
		hex, ok := strings.CutPrefix(digest, "sha256:")
		if !ok || !isHex(hex) {
			return removed, fmt.Errorf("mend the mirror: %q is no digest", digest)
		}
		have, err := s.hash(ctx, path.Join(blobDir(hex), "data"))
		switch {
		case errors.Is(err, fs.ErrNotExist) || err == nil && have == hex:
			continue
		case err != nil:
			return removed, fmt.Errorf("mend the mirror: %w", err)
		}
		if err := s.root.RemoveAll(blobDir(hex)); err != nil {
			return removed, fmt.Errorf("mend the mirror: %w", err)
		}
		removed = append(removed, digest)
	}
	return removed, nil
}

// hash of a file, in hexadecimal digits.
func (s *Store) hash(ctx context.Context, name string) (string, error) {
	f, err := s.root.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	for {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		_, err := io.CopyN(h, f, 8<<20)
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}
