package build

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

	"github.com/orrery-dev/orrery/internal/disk"
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
	sum, err := disk.SHA256(path)
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
	var all sync.WaitGroup
	for i := range 4 { // environments that come up together
		all.Go(func() {
			to := filepath.Join(filepath.Dir(dir), string(rune('0'+i)))
			if damaged, err := Unpack(t.Context(), cache, sum, to, path); err != nil || damaged != nil {
				t.Error(err, damaged)
			}
			if got, err := os.ReadFile(filepath.Join(to, "b", "c")); err != nil || string(got) != "2" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	all.Wait()
	if _, err := Unpack(t.Context(), cache, sum, dir, path); err != nil {
		t.Error(err)
	}
	empty := t.TempDir()
	if damaged, err := Unpack(t.Context(), empty, sum, dir, path); err != nil || damaged != nil {
		t.Error("it is there already: ", err, damaged)
	}
	if left, _ := os.ReadDir(empty); len(left) > 0 {
		t.Errorf("it is there already, and was unpacked: %v", left)
	}
	// Another archive takes its place, as a whole.
	path, sum = packed(t, text("d", "3"))
	if damaged, err := Unpack(t.Context(), cache, sum, dir, path); err != nil || damaged != nil {
		t.Fatal(err, damaged)
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
		if _, err := Unpack(context.Background(), cache, hex.EncodeToString(sum[:]), dir, path); err == nil {
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
	if _, err := Unpack(t.Context(), t.TempDir(), strings.Repeat("0", 64), t.TempDir()+"/x", path); !errors.Is(err, errCorrupt) {
		t.Errorf("another digest than was asked for: %v", err)
	}
	if _, err := Unpack(t.Context(), t.TempDir(), "../x", t.TempDir()+"/x", path); err == nil {
		t.Error("no digest, and no error")
	}
}

// What was changed behind our back, in the cache or in an environment, is found and unpacked
// again.
func TestUnpackAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, cache, dir string)
		says  string
	}{
		"a byte of both": {func(t *testing.T, _, dir string) { // links to one file
			if err := os.WriteFile(filepath.Join(dir, "b", "c"), []byte("3"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "b/c: it differs at offset 0"},
		"longer": {func(t *testing.T, _, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "a"), []byte("11"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "a: it differs at offset 1"},
		"one is gone": {func(t *testing.T, _, dir string) {
			if err := os.Remove(filepath.Join(dir, "a")); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
		"one is a link": {func(t *testing.T, _, dir string) {
			if err := errors.Join(os.Remove(filepath.Join(dir, "a")), os.Symlink("b/c", filepath.Join(dir, "a"))); err != nil {
				t.Fatal(err)
			}
		}, "a: it is no file any more"},
		"one too many": {func(t *testing.T, _, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "b", "d"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "d is not of the archive"},
		"in the cache only": {func(t *testing.T, cache, dir string) {
			at := filepath.Join(cache, UnpackedDir, "*", "a")
			found, _ := filepath.Glob(at)
			if err := errors.Join(os.RemoveAll(dir), os.Remove(found[0]), os.WriteFile(found[0], []byte("4"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}, "a: it differs at offset 0"},
	} {
		t.Run(name, func(t *testing.T) {
			cache, dir := t.TempDir(), filepath.Join(t.TempDir(), "tree")
			path, sum := packed(t, text("a", "1"), text("b/c", "2"))
			if _, err := Unpack(t.Context(), cache, sum, dir, path); err != nil {
				t.Fatal(err)
			}
			tc.spoil(t, cache, dir)
			damaged, err := Unpack(t.Context(), cache, sum, dir, path)
			if err != nil || damaged == nil || !errors.Is(damaged, errCorrupt) || !strings.Contains(damaged.Error(), tc.says) {
				t.Errorf("%v; damaged: %v, want %q", err, damaged, tc.says)
			}
			if err := CompareUnpacked(path, dir); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
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
