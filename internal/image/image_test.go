package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/build/buildtest"
	"github.com/orrery-dev/orrery/internal/catalog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newBuilder opens a cache in dir, whose Go build cache is the developer's own.
func newBuilder(t testing.TB, dir string) (*Builder, *buildtest.Recorder) {
	t.Helper()
	buildtest.Cache(t, dir)
	r := &buildtest.Recorder{}
	b, err := NewBuilder(build.Options{CacheDir: dir, Sink: r})
	if err != nil {
		t.Fatal(err)
	}
	return b, r
}

func helloImage(t testing.TB) catalog.Image {
	bin := buildtest.Hello(t)
	bin.Links = []string{"hi"}
	return catalog.Image{Name: "hello", Version: "v1.2.3", Binaries: []catalog.Binary{bin}, Directories: []string{"/var/lib/hello"}}
}

func openImage(t *testing.T, built Built) v1.Image {
	t.Helper()
	digest, err := v1.NewHash(built.Digest)
	if err != nil {
		t.Fatal(err)
	}
	img, err := ggcrlayout.Path(built.Layout).Image(digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// listing is every entry of every layer, as "mode uid:gid name [-> link]".
func listing(t *testing.T, img v1.Image) (out []string) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		compressed, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		z, err := zstd.NewReader(compressed)
		if err != nil {
			t.Fatal(err)
		}
		for r := tar.NewReader(z); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if !h.ModTime.Equal(time.Unix(0, 0)) {
				t.Errorf("%s has the time %v", h.Name, h.ModTime)
			}
			line := h.FileInfo().Mode().String() + " " + user{h.Uid, h.Gid}.String() + " " + h.Name
			if h.Linkname != "" {
				line += " -> " + h.Linkname
			}
			out = append(out, line)
		}
		z.Close()
		compressed.Close()
	}
	return out
}

// valid hashes all of an image. (validate.Image of go-containerregistry knows gzip only.)
func valid(t *testing.T, img v1.Image) {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != len(config.RootFS.DiffIDs) {
		t.Fatalf("%d layers, %d diff IDs", len(layers), len(config.RootFS.DiffIDs))
	}
	for i, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		compressed, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		defer compressed.Close()
		outer, inner := sha256.New(), sha256.New()
		z, err := zstd.NewReader(io.TeeReader(compressed, outer))
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		if _, err := io.Copy(inner, z); err != nil {
			t.Fatal(err)
		}
		if sum(outer) != digest || sum(inner) != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d is %s and %s, should be %s and %s", i, sum(outer), sum(inner), digest, config.RootFS.DiffIDs[i])
		}
	}
}

func TestImage(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	img := helloImage(t)
	if _, ok, err := b.CachedImage(t.Context(), img); ok || err != nil {
		t.Fatalf("CachedImage before = %v, %v", ok, err)
	}
	built, err := b.Image(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	if cached, ok, err := b.CachedImage(t.Context(), img); !ok || err != nil || cached != built {
		t.Errorf("CachedImage = %+v, %v, %v; want %+v", cached, ok, err, built)
	}
	if want := "registry.orrery.internal/hello:v1.2.3@" + built.Digest; built.Reference() != want {
		t.Errorf("reference %s, want %s", built.Reference(), want)
	}
	opened := openImage(t, built)
	valid(t, opened)
	want := []string{
		"drwxr-xr-x 0:0 dev/", "drwxr-xr-x 0:0 etc/", "-rw-r--r-- 0:0 etc/group", "-rw-r--r-- 0:0 etc/passwd",
		"dr-xr-xr-x 0:0 proc/", "dr-xr-xr-x 0:0 sys/", "dtrwxrwxrwx 0:0 tmp/",
		"drwxr-xr-x 0:0 var/", "drwxr-xr-x 0:0 var/lib/", "drwxr-xr-x 65532:65532 var/lib/hello/",
		"-rwxr-xr-x 0:0 hello", "Lrwxrwxrwx 0:0 hi -> hello",
	}
	if got := listing(t, opened); !slices.Equal(got, want) {
		t.Errorf("content\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	config, err := opened.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if c := config.Config; !slices.Equal(c.Entrypoint, []string{"/hello"}) || c.User != "65532:65532" ||
		c.Labels["org.opencontainers.image.title"] != "hello" || c.Labels["org.opencontainers.image.version"] != "v1.2.3" ||
		c.Labels["org.opencontainers.image.source-module"] != "example.org/hello" {
		t.Errorf("configuration %+v", c)
	}
	manifest, err := opened.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	total := manifest.Config.Size
	for _, l := range manifest.Layers {
		total += l.Size
	}
	if raw, _ := opened.RawManifest(); built.Size != total+int64(len(raw)) {
		t.Errorf("size %d, want %d", built.Size, total+int64(len(raw)))
	}
}

// What the index of the store does not list any more is made again, since it is opened by that.
func TestImageOutsideIndex(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	img := helloImage(t)
	built, err := b.Image(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	for _, damage := range []func() error{
		func() error { return os.WriteFile(b.layout.index(), []byte("{"), 0o600) },
		func() error { return os.Remove(b.layout.index()) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := b.CachedImage(t.Context(), img); ok || err != nil {
			t.Errorf("CachedImage without an index = %v, %v", ok, err)
		}
		if again, err := b.Image(t.Context(), img); err != nil || again != built {
			t.Errorf("made again: %+v, %v; want %+v", again, err, built)
		}
		valid(t, openImage(t, built))
	}
}

// An archive becomes a tree, with its folders; what leads out of it is refused.
func TestArchiveInImage(t *testing.T) {
	pack := func(names ...string) *tar.Reader {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, name := range names {
			if err := errors.Join(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: 1}), write(w, "x")); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return tar.NewReader(&b)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(writeArchive(w, "opt/llvm", pack("bin/clang", "bin/ld", "doc/a/copyright")), w.Close()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Name)
	}
	want := []string{
		"opt/", "opt/llvm/", "opt/llvm/bin/", "opt/llvm/bin/clang", "opt/llvm/bin/ld", "opt/llvm/doc/", "opt/llvm/doc/a/", "opt/llvm/doc/a/copyright",
	}
	if !slices.Equal(got, want) {
		t.Errorf("content %q, want %q", got, want)
	}
	for _, name := range []string{"../etc/passwd", ".."} {
		if err := writeArchive(tar.NewWriter(io.Discard), "opt/llvm", pack(name)); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
}

func write(w io.Writer, text string) error {
	_, err := io.WriteString(w, text)
	return err
}

func TestImageErrors(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	for name, tc := range map[string]struct {
		change func(*catalog.Image)
		want   string
	}{
		"no binaries":        {func(i *catalog.Image) { i.Binaries = nil }, "at least one binary"},
		"user by name":       {func(i *catalog.Image) { i.User = "root" }, "in numbers"},
		"relative directory": {func(i *catalog.Image) { i.Directories = []string{"data"} }, "absolute path"},
		"root directory":     {func(i *catalog.Image) { i.Directories = []string{"/"} }, "absolute path"},
		"unknown package":    {func(i *catalog.Image) { i.Binaries[0].Package = "./none" }, "image hello"},
	} {
		img := helloImage(t)
		tc.change(&img)
		if _, err := b.Image(t.Context(), img); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestImageIsReproducible(t *testing.T) {
	defer func(l *time.Location) { time.Local = l }(time.Local)
	digests := map[string]bool{}
	img := helloImage(t)
	for i, mask := range []int{0o022, 0o077} {
		old := syscall.Umask(mask)
		time.Local = time.FixedZone("test", i*3600)
		b, _ := newBuilder(t, filepath.Join(t.TempDir(), strings.Repeat("x", i+1)))
		built, err := b.Image(t.Context(), img)
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		digests[built.Digest] = true
	}
	if len(digests) != 1 {
		t.Errorf("two caches, umasks and time zones, two digests: %v", digests)
	}
}

// What an image's inputs decide, and nothing else, decides its digest. This one changes
// only with the Go version, the compressor or imageFormat.
func TestImageInputs(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	base := helloImage(t)
	first, err := b.Image(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*catalog.Image){
		"name":        func(i *catalog.Image) { i.Name = "hi" },
		"version":     func(i *catalog.Image) { i.Version = "v2" },
		"user":        func(i *catalog.Image) { i.User = "1000" },
		"directories": func(i *catalog.Image) { i.Directories = nil },
		"entrypoint":  func(i *catalog.Image) { i.Entrypoint = []string{"/hi", "there"} },
		"links":       func(i *catalog.Image) { i.Binaries = []catalog.Binary{i.Binaries[0]}; i.Binaries[0].Links = nil },
	} {
		img := base
		change(&img)
		built, err := b.Image(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		if built.Digest == first.Digest {
			t.Errorf("%s: the digest stayed", name)
		}
	}
}

func TestReplacedImageIsCollected(t *testing.T) {
	dir := t.TempDir()
	b, _ := newBuilder(t, dir)
	other := helloImage(t)
	other.Name = "other"
	kept, err := b.Image(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	img := helloImage(t)
	old, err := b.Image(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	stray := filepath.Join(b.layout.dir, ".blob-killed")
	if err := os.WriteFile(stray, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	changed := img
	changed.User = "0"
	now, err := b.Image(t.Context(), changed)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, _ := b.CachedImage(t.Context(), img); ok {
		t.Error("the replaced image is still there")
	}
	if h, _ := v1.NewHash(old.Digest); exists(b.layout.blob(h), 0) {
		t.Error("its manifest is still there")
	}
	if _, err := os.Stat(stray); !os.IsNotExist(err) {
		t.Errorf("what a killed process wrote is still there: %v", err)
	}
	for _, built := range []Built{kept, now} {
		valid(t, openImage(t, built))
	}
	if keys, _ := filepath.Glob(b.layout.record("*")); len(keys) != 2 {
		t.Errorf("records %v, want two", keys)
	}
}

func TestImagesInParallel(t *testing.T) {
	dir := t.TempDir()
	one, _ := newBuilder(t, dir)
	two, _ := newBuilder(t, dir)
	base := helloImage(t)
	var all errgroup.Group
	for i := range 12 {
		img := base
		img.Name = "hello" + string(rune('a'+i/2))
		all.Go(func() error {
			_, err := []*Builder{one, two}[i%2].Image(t.Context(), img)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	index, err := one.layout.readIndex()
	if err != nil || len(index.Manifests) != 6 {
		t.Errorf("index lists %d images, %v; want 6", len(index.Manifests), err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"name":"a","digest":"sha256:00","blobs":[{"digest":"sha256:00","size":1}]}`))
	f.Add([]byte(`{"digest":"x","blobs":[{"digest":"../../etc:passwd","size":1}]}`))
	f.Add([]byte(`[]`))
	l := layout{dir: f.TempDir()}
	if err := os.MkdirAll(filepath.Dir(l.record("k")), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(l.record("k"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		if built, ok := l.lookup("k"); ok {
			t.Errorf("found %+v in an empty layout: %q", built, data)
		}
	})
}
