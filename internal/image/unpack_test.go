package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func text(name, content string) archived {
	return archived{name: name, mode: 0o644, size: int64(len(content)), open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}
}

// packed writes an archive and returns its path and digest.
func packed(t *testing.T, files ...archived) (path, sum string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "archive")
	if err := writeArchive(path, files); err != nil {
		t.Fatal(err)
	}
	sum, err := hashFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, sum
}

func TestWriteArchive(t *testing.T) {
	_, one := packed(t, text("b/c", "1"), text("a", "2"))
	_, two := packed(t, text("a", "2"), text("b/c", "1"))
	if one != two {
		t.Error("the order of the files has a say in the bytes")
	}
	for name, files := range map[string][]archived{
		"twice":   {text("a", ""), text("a", "")},
		"outside": {text("../a", "")},
		"longer":  {{name: "a", size: 1, open: text("a", "22").open}},
		"shorter": {{name: "a", size: 3, open: text("a", "22").open}},
	} {
		if err := writeArchive(filepath.Join(t.TempDir(), "x"), files); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestUnpack(t *testing.T) {
	cache, dir := t.TempDir(), filepath.Join(t.TempDir(), "dist", "tree")
	path, sum := packed(t, text("a", "1"), text("b/c", "2"))
	asked := 0
	where := func() (string, error) { asked++; return path, nil }
	var all sync.WaitGroup
	for i := range 4 { // environments that come up together
		all.Go(func() {
			to := filepath.Join(filepath.Dir(dir), string(rune('0'+i)))
			if err := Unpack(t.Context(), cache, sum, to, where); err != nil {
				t.Error(err)
			}
			if got, err := os.ReadFile(filepath.Join(to, "b", "c")); err != nil || string(got) != "2" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	all.Wait()
	if err := Unpack(t.Context(), cache, sum, dir, where); err != nil || asked != 1 {
		t.Errorf("%v; the archive was asked for %d times, want once", err, asked)
	}
	if err := Unpack(t.Context(), t.TempDir(), sum, dir, func() (string, error) { return "", errors.New("asked") }); err != nil {
		t.Error("it is there already: ", err)
	}
	// Another archive takes its place, as a whole.
	path, sum = packed(t, text("d", "3"))
	if err := Unpack(t.Context(), cache, "", dir, where); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 2 || filepath.Base(left[1]) != "d" {
		t.Errorf("there is %v, want %s and d", left, digestFile)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, digestFile)); string(got) != sum {
		t.Errorf("%s says %q", digestFile, got)
	}
}

func TestUnpackRefuses(t *testing.T) {
	entry := func(h tar.Header, content string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		h.Size, h.Mode = int64(len(content)), 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(w, content)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for name, data := range map[string][]byte{
		"outside":  entry(tar.Header{Typeflag: tar.TypeReg, Name: "../../a"}, "x"),
		"absolute": entry(tar.Header{Typeflag: tar.TypeReg, Name: "/etc/a"}, "x"),
		"link":     entry(tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "/etc"}, ""),
		"device":   entry(tar.Header{Typeflag: tar.TypeChar, Name: "a"}, ""),
		"digest":   entry(tar.Header{Typeflag: tar.TypeReg, Name: digestFile}, strings.Repeat("0", 64)),
		"cut":      entry(tar.Header{Typeflag: tar.TypeReg, Name: "a"}, strings.Repeat("x", 600))[:700],
		"no tar":   []byte(strings.Repeat("x", 1024)),
	} {
		path := filepath.Join(t.TempDir(), "archive")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		cache, dir := t.TempDir(), filepath.Join(t.TempDir(), "tree")
		err := Unpack(context.Background(), cache, hex.EncodeToString(sum[:]), dir, func() (string, error) { return path, nil })
		if err == nil {
			t.Errorf("%s: it is unpacked", name)
		}
		if left, _ := filepath.Glob(filepath.Join(cache, UnpackedDir, "*")); len(left) > 1 { // the lock
			t.Errorf("%s: left behind: %v", name, left)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: the folder is there", name)
		}
	}
	path, _ := packed(t, text("a", "1"))
	if err := Unpack(t.Context(), t.TempDir(), strings.Repeat("0", 64), t.TempDir()+"/x", func() (string, error) { return path, nil }); !errors.Is(err, errCorrupt) {
		t.Errorf("another digest than was asked for: %v", err)
	}
	if err := Unpack(t.Context(), t.TempDir(), "../x", t.TempDir()+"/x", nil); err == nil {
		t.Error("no digest, and no error")
	}
}

func FuzzUntar(f *testing.F) {
	path := filepath.Join(f.TempDir(), "archive")
	if err := writeArchive(path, []archived{text("a/b", "1")}); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = untar(bytes.NewReader(data), t.TempDir())
	})
}
