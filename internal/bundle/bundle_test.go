package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/oci"
)

func TestRoundTrip(t *testing.T) {
	f := newFixture(t)
	file := f.create(t)
	b := opened(t, file)
	if err := b.Verify(f.verify); err != nil {
		t.Fatal(err)
	}
	if string(b.PublicKey()) != "the public key" {
		t.Errorf("public key: %q", b.PublicKey())
	}
	cache := t.TempDir()
	r, err := b.Import(t.Context(), ImportOptions{CacheDir: cache, Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Already || r.Kept != 0 || r.Written == 0 {
		t.Errorf("first import: %+v", r)
	}
	for _, p := range f.Programs {
		want, _ := os.ReadFile(p.Path)
		got, err := os.ReadFile(filepath.Join(r.Dir, "bin", p.SHA256))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("program %s: %v, equal: %v", p.Name, err, bytes.Equal(got, want))
		}
		if info, err := os.Stat(filepath.Join(r.Dir, "bin", p.SHA256)); err == nil && info.Mode().Perm() != 0o555 {
			t.Errorf("program %s has mode %v", p.Name, info.Mode())
		}
	}
	for _, name := range f.Files {
		if got, err := os.ReadFile(filepath.Join(r.Dir, "catalog", name)); err != nil || string(got) != "content of "+name {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if info, err := os.Stat(filepath.Join(r.Dir, "catalog/infra/run.sh")); err != nil || info.Mode().Perm()&0o100 == 0 {
		t.Errorf("run.sh lost its mode: %v, %v", info, err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "bundles", partPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	store := storeOf(t, cache, b.Digest())
	for _, name := range []string{"dns", "queue"} {
		built, ok, err := store.CachedImage(t.Context(), catalog.Image{Name: name})
		if err != nil || !ok || built.Layout != r.Dir || built.Version != "v1.0.0" || built.Size == 0 {
			t.Errorf("image %s: %+v, %v, %v", name, built, ok, err)
		}
	}
	for name, want := range map[string]bool{"kubelet": true, "runc": true, "dnsd": true, "other": false} {
		if got, err := store.Cached(t.Context(), catalog.Binary{Name: name}); err != nil || got != want {
			t.Errorf("Cached(%s) = %v, %v", name, got, err)
		}
	}
	bin := t.TempDir()
	if err := store.Link(t.Context(), bin, catalog.Binary{Name: "kubelet", Links: []string{"kubectl"}}); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(filepath.Join(bin, "kubectl")); err != nil || to != "kubelet" {
		t.Errorf("link: %q, %v", to, err)
	}
	docs, err := store.Attached(f.Images[0].Digest)
	if err != nil || len(docs) != 1 || !slices.ContainsFunc(docs[0].Blobs, func(b []byte) bool { return string(b) == `{"bomFormat":"CycloneDX"}` }) {
		t.Errorf("attached: %v, %v", docs, err)
	}

	for _, name := range []string{"kubelet", "runc"} {
		programDocuments, has, err := store.ProgramDocuments(name)
		if err != nil || !has || len(programDocuments) != 1 || string(programDocuments["application/vnd.cyclonedx+json"]) != `{"about":"`+name+`"}` {
			t.Errorf("documents of %s: %q, %v, %v", name, programDocuments, has, err)
		}
	}
	if programDocuments, has, err := store.ProgramDocuments("dnsd"); has || err != nil {
		t.Errorf("documents of a program that is in an image: %q, %v", programDocuments, err)
	}
	for _, p := range b.Describe().Programs {
		if len(p.Attached) != 1 {
			t.Errorf("program %s is described with the documents %q", p.Name, p.Attached)
		}
	}

	again, err := b.Import(t.Context(), ImportOptions{CacheDir: cache})
	if err != nil || !again.Already {
		t.Errorf("second import: %+v, %v", again, err)
	}
}

func storeOf(t *testing.T, cache, digest string) *Store {
	t.Helper()
	im, err := OpenImported(cache, digest)
	if err != nil {
		t.Fatal(err)
	}
	locked, err := im.Lock()
	if err != nil {
		t.Fatal(err)
	}
	return NewStore(locked, im)
}

func TestCreateIsDeterministic(t *testing.T) {
	f := newFixture(t)
	file := filepath.Join(t.TempDir(), "a.orrery")
	var first []byte
	for workers := range 4 {
		o := f.options()
		o.Workers = workers + 1
		if err := Create(t.Context(), file, f.Contents, o); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = data
		} else if !bytes.Equal(first, data) { // ed25519 signs the same way each time
			t.Errorf("with %d workers the file differs", workers+1)
		}
	}
}

// Any tar can take it apart.
func TestIsATar(t *testing.T) {
	f, err := os.Open(newFixture(t).create(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := tar.NewReader(f)
	var names []string
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		d := newDigester(false)
		if _, err := io.Copy(d, r); err != nil {
			t.Fatal(err)
		}
		if hex, ok := strings.CutPrefix(h.Name, blobPrefix); ok && hex != d.hex() {
			t.Errorf("%s holds %s", h.Name, d.hex())
		}
		names = append(names, h.Name)
	}
	if names[0] != oci.IndexFile || len(names) < 10 {
		t.Errorf("entries: %v", names)
	}
}

func TestCreateLeavesNothing(t *testing.T) {
	f := newFixture(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "x.orrery")
	put(t, file, []byte("an older one"), 0o644)
	check := func(name string, c Contents, ctx context.Context, want string) {
		err := Create(ctx, file, c, f.options())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q in it", name, err, want)
		}
		if old, _ := os.ReadFile(file); string(old) != "an older one" {
			t.Errorf("%s: the older file is gone", name)
		}
		if _, err := os.Stat(file + ".partial"); err == nil {
			t.Errorf("%s: left %s.partial behind", name, file)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	check("cancelled", f.Contents, cancelled, "canceled")
	c := f.Contents
	c.Programs = slices.Clone(c.Programs)
	c.Programs[1].SHA256 = strings.Repeat("0", 64)
	check("program that changed", c, t.Context(), "should be 000")
	c = f.Contents
	c.Files = append(slices.Clone(c.Files), "../escape")
	check("file name", c, t.Context(), "refused")
	layer := largest(t, filepath.Join(f.Images[0].Layout, "blobs/sha256"))
	flip(t, layer, 1000)
	check("damaged layer", f.Contents, t.Context(), "the cache is damaged")
}

func largest(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	path, size := "", int64(-1)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Size() > size {
			path, size = filepath.Join(dir, e.Name()), info.Size()
		}
	}
	return path
}

// flip changes one byte of a file.
func flip(t *testing.T, path string, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// Wherever a byte is flipped, it is found; in a blob, the page is named.
func TestFlippedByte(t *testing.T) {
	f := newFixture(t)
	file := f.create(t)
	b := opened(t, file)
	offsets := []int64{0, 5, 150, 513, 700}
	where := map[int64]entry{}
	for _, e := range b.sorted() {
		at := b.table[blobPrefix+e.digest]
		for _, off := range []int64{at.off - 512, at.off, at.off + at.size/2, at.off + at.size - 1, at.end() - 1} {
			offsets = append(offsets, off)
			if off >= at.off && off < at.off+at.size {
				where[off] = e
			}
		}
	}
	at := b.table[signatureName]
	offsets = append(offsets, at.off+3, at.off+40, at.off+at.size-1, b.size-1, b.size-1024)
	for _, off := range offsets {
		t.Run(fmt.Sprint(off), func(t *testing.T) {
			flip(t, file, off)
			defer flip(t, file, off)
			err := wholeImport(t, f, file)
			if err == nil {
				t.Fatalf("a flipped byte at %d was not found", off)
			}
			e, inBlob := where[off]
			if !inBlob {
				return
			}
			d, ok := errors.AsType[*DamageError](err)
			if !ok {
				t.Fatalf("in a blob, and not a DamageError: %v", err)
			}
			if d.Blob != "sha256:"+e.digest || off < d.Offset || off >= d.Offset+d.Length {
				t.Errorf("it is at %d, in %s of %s: %v", off, e.digest, e.owner, err)
			}
			if e.layer && strings.HasPrefix(e.owner, "image") && d.Inside == "" && off > b.table[blobPrefix+e.digest].off+page {
				t.Errorf("no file is named: %v", err)
			}
		})
	}
	if err := wholeImport(t, f, file); err != nil {
		t.Errorf("unharmed: %v", err)
	}
}

func wholeImport(t *testing.T, f fixture, file string) error {
	b, err := Open(file)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := b.Verify(f.verify); err != nil {
		return err
	}
	cache := t.TempDir()
	r, err := b.Import(t.Context(), ImportOptions{CacheDir: cache})
	if err != nil {
		if _, statErr := os.Stat(r.Dir); statErr == nil {
			t.Errorf("%s is there in spite of: %v", r.Dir, err)
		}
	}
	return err
}

// Wherever the file ends too early, that is said.
func TestTruncated(t *testing.T) {
	f := newFixture(t)
	data, err := os.ReadFile(f.create(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 511, 512, 600, 5000, len(data) / 2, len(data) - 5000, len(data) - 1025, len(data) - 1024, len(data) - 512, len(data) - 1} {
		_, err := read(bytes.NewReader(data[:n]), int64(n), "cut.orrery")
		if err == nil {
			t.Errorf("%d of %d bytes are a bundle", n, len(data))
		} else if n >= 512 && !errors.Is(err, ErrTruncated) {
			t.Errorf("%d of %d bytes: %v", n, len(data), err)
		}
	}
}

func TestNotABundle(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"empty": nil, "text": []byte("hello"), "zeros": make([]byte, 4096), "gzip": append([]byte{0x1f, 0x8b}, noise(1, 5000)...), "noise": noise(2, 5000),
	} {
		path := filepath.Join(dir, name)
		put(t, path, data, 0o644)
		if _, err := Open(path); !errors.Is(err, ErrNotBundle) && !errors.Is(err, ErrTruncated) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(dir); !errors.Is(err, ErrNotBundle) {
		t.Errorf("folder: %v", err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "manifest.json", Size: 2, Typeflag: tar.TypeReg})
	_, _ = w.Write([]byte("{}"))
	w.Close()
	if _, err := read(bytes.NewReader(b.Bytes()), int64(b.Len()), "docker.tar"); !errors.Is(err, ErrNotBundle) {
		t.Errorf("another tar: %v", err)
	}
}

func TestOtherPlatform(t *testing.T) {
	f := newFixture(t)
	f.Platform = "linux/riscv64"
	b := opened(t, f.create(t))
	_, err := b.Import(t.Context(), ImportOptions{CacheDir: t.TempDir(), Platform: "linux/amd64"})
	if !errors.Is(err, ErrPlatform) || !strings.Contains(err.Error(), "riscv64") {
		t.Error(err)
	}
}

func TestUntarRefuses(t *testing.T) {
	for name, h := range map[string]tar.Header{
		"parent": {Name: "../x", Typeflag: tar.TypeReg}, "absolute": {Name: "/etc/x", Typeflag: tar.TypeReg}, "dot": {Name: "./x", Typeflag: tar.TypeReg},
		"inner parent": {Name: "a/../../x", Typeflag: tar.TypeReg}, "symlink": {Name: "x", Linkname: "/etc", Typeflag: tar.TypeSymlink},
		"hard link": {Name: "x", Linkname: "/etc/passwd", Typeflag: tar.TypeLink}, "device": {Name: "x", Typeflag: tar.TypeChar},
		"back slash": {Name: `a\b`, Typeflag: tar.TypeReg}, "huge": {Name: "x", Size: maxCatalog + 1, Typeflag: tar.TypeReg},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := untar(&b, dir); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v", name, err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			t.Errorf("%s: %v was written", name, entries)
		}
	}
}

// A stream that unpacks to more than it says ends there.
func TestBomb(t *testing.T) {
	var z bytes.Buffer
	w, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 64<<20)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	n := int64(0)
	err = decode(&z, entry{plain: 1000}, func(r io.Reader) error {
		n, err = io.Copy(io.Discard, r)
		return err
	})
	if !errors.Is(err, errContent) || n > 1001 {
		t.Errorf("%d bytes came out: %v", n, err)
	}
	var wide bytes.Buffer
	w, err = zstd.NewWriter(&wide, zstd.WithWindowSize(64<<20), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(w, io.LimitReader(zero{}, 80<<20))
	w.Close()
	if err := decode(&wide, entry{plain: 80 << 20}, func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }); err == nil || !strings.Contains(err.Error(), "window") {
		t.Errorf("a window of 64 MiB: %v", err)
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }
