package bundle

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/orrery-dev/orrery/internal/oci"
)

// FuzzRead opens anything, and imports what opens.
func FuzzRead(f *testing.F) {
	small := newFixture(f)
	small.Programs = small.Programs[1:]
	data, err := os.ReadFile(small.create(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data[:4096], 0, []byte("x"))
	f.Add(data[:0], 0, []byte{})
	f.Add([]byte(nil), 600, []byte("7777777"))
	f.Fuzz(func(t *testing.T, head []byte, at int, patch []byte) {
		mutated := bytes.Clone(data)
		copy(mutated, head)
		if at >= 0 && at < len(mutated) {
			copy(mutated[at:], patch)
		}
		b, err := read(bytes.NewReader(mutated), int64(len(mutated)), "fuzz")
		if err != nil {
			return
		}
		cache := t.TempDir()
		if r, err := b.Import(t.Context(), ImportOptions{CacheDir: cache}); err != nil {
			if _, statErr := os.Stat(r.Dir); statErr == nil {
				t.Errorf("%s is there in spite of %v", r.Dir, err)
			}
		}
		if outside, _ := filepath.Glob(filepath.Join(cache, "*")); len(outside) > 1 {
			t.Errorf("written outside: %v", outside)
		}
	})
}

// FuzzIndex reads anything as an index, with anything as every manifest.
func FuzzIndex(f *testing.F) {
	b, err := Open(newFixture(f).create(f))
	if err != nil {
		f.Fatal(err)
	}
	defer b.Close()
	for _, e := range b.sorted() {
		if data, err := b.small(blobPrefix+e.digest, oci.MaxManifest); err == nil && bytes.HasPrefix(data, []byte("{")) {
			f.Add(b.raw, data)
		}
	}
	f.Fuzz(func(t *testing.T, raw, manifest []byte) {
		s, err := look(raw, func(v1.Descriptor) ([]byte, error) { return manifest, nil })
		if err != nil {
			return
		}
		for _, e := range s.sorted() {
			for _, dir := range []string{"", "base"} {
				if p := e.target(dir); !filepath.IsLocal(p) || strings.Contains(p, "..") {
					t.Errorf("a file would be written to %q", p)
				}
			}
		}
		s.Items()
		s.describe()
	})
}

func FuzzChecksums(f *testing.F) {
	f.Add(checksums{strings.Repeat("ab", 32): {1, 2, 3}, strings.Repeat("00", 32): nil}.encode())
	f.Add([]byte(sumsMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeSums(data)
		if err != nil {
			return
		}
		again, err := decodeSums(c.encode())
		if err != nil || len(again) != len(c) {
			t.Errorf("what was read cannot be read again: %v", err)
		}
	})
}

// FuzzFrame unpacks anything as a program, and as a catalogue.
func FuzzFrame(f *testing.F) {
	fix := newFixture(f)
	b, err := Open(fix.create(f))
	if err != nil {
		f.Fatal(err)
	}
	defer b.Close()
	for _, e := range b.sorted() {
		if data, err := b.small(blobPrefix+e.digest, oci.MaxManifest); err == nil && e.kind != kindPlain && len(data) < 100_000 {
			f.Add(data, e.plain)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, plain int64) {
		e := entry{plain: min(max(plain, 0), 1<<20), program: Program{SHA256: strings.Repeat("0", 64)}}
		var out bytes.Buffer
		err := decode(bytes.NewReader(data), e, func(r io.Reader) error {
			_, err := out.ReadFrom(r)
			return err
		})
		if err == nil || int64(out.Len()) > e.plain+1 {
			t.Errorf("%d bytes came out, %d were allowed: %v", out.Len(), e.plain, err)
		}
		dir := t.TempDir()
		inner := filepath.Join(dir, "inner")
		if err := os.Mkdir(inner, 0o755); err != nil {
			t.Fatal(err)
		}
		err = decode(bytes.NewReader(data), e, func(r io.Reader) error { return untar(r, inner) })
		if err == nil {
			t.Error("no hash is zero")
		}
		if errors.Is(err, os.ErrExist) {
			return
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 1 {
			t.Errorf("the catalogue escaped: %v", entries)
		}
	})
}
