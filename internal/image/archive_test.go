package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/build/buildtest"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/oci"
)

func randomImage(t testing.TB, os, arch string) v1.Image {
	t.Helper()
	img, err := random.Image(2000, 2)
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c.OS, c.Architecture = os, arch
	if img, err = mutate.ConfigFile(img, c); err != nil {
		t.Fatal(err)
	}
	return img
}

// archives writes img in every form that is understood.
func archives(t testing.TB, img v1.Image) map[string]string {
	t.Helper()
	dir := t.TempDir()
	folder := filepath.Join(dir, "folder")
	l, err := ggcrlayout.Write(folder, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendImage(img, ggcrlayout.WithAnnotations(map[string]string{oci.RefName: "example.org/team/tool:v3"})); err != nil {
		t.Fatal(err)
	}
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	if err := w.AddFS(os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(plain.Bytes())
	z.Close()
	out := map[string]string{"folder": folder}
	for form, data := range map[string][]byte{"oci.tar": plain.Bytes(), "oci.tar.gz": packed.Bytes()} {
		out[form] = filepath.Join(dir, form)
		if err := os.WriteFile(out[form], data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tag, err := name.NewTag("example.org/team/tool:v3")
	if err != nil {
		t.Fatal(err)
	}
	out["docker.tar"] = filepath.Join(dir, "docker.tar")
	if err := tarball.WriteToFile(out["docker.tar"], tag, img); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLoadArchives(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	for form, file := range archives(t, randomImage(t, "linux", runtime.GOARCH)) {
		t.Run(form, func(t *testing.T) {
			a, err := OpenArchive(t.Context(), file, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			if len(a.Images) != 1 {
				t.Fatalf("%d images", len(a.Images))
			}
			one := a.Images[0]
			if one.Name != "team/tool" || one.Tag != "v3" {
				t.Errorf("it is called %s:%s", one.Name, one.Tag)
			}
			loaded, err := one.Push(t.Context(), inMirror(host), one.Name, one.Tag)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(loaded.Reference, mirror.Host+"/team/tool:v3@sha256:") || loaded.Moved != "" {
				t.Errorf("loaded %+v", loaded)
			}
		})
	}
}

// A tag that named something else until now is told.
func TestLoadMovesTag(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	to := inMirror(strings.TrimPrefix(server.URL, "http://"))
	first := Archived{img: randomImage(t, "linux", runtime.GOARCH)}
	for i, one := range []Archived{first, first, {img: randomImage(t, "linux", runtime.GOARCH)}} {
		loaded, err := one.Push(t.Context(), to, "lab", "1")
		if err != nil {
			t.Fatal(err)
		}
		want := ""
		if i == 2 {
			digest, err := first.img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			want = digest.String()
		}
		if loaded.Moved != want {
			t.Errorf("push %d: moved from %q, want %q", i, loaded.Moved, want)
		}
	}
}

// layoutOf writes an index with these entries.
func layoutOf(t testing.TB, add ...mutate.IndexAddendum) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := ggcrlayout.Write(dir, mutate.AppendManifests(empty.Index, add...)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func entry(what mutate.Appendable, platform string, annotations ...string) mutate.IndexAddendum {
	a := mutate.IndexAddendum{Add: what, Descriptor: v1.Descriptor{Annotations: map[string]string{}}}
	if os, arch, ok := strings.Cut(platform, "/"); ok {
		a.Platform = &v1.Platform{OS: os, Architecture: arch}
	}
	for i := 0; i < len(annotations); i += 2 {
		a.Annotations[annotations[i]] = annotations[i+1]
	}
	return a
}

// What other tools write: several images, several platforms, entries that are no image.
func TestLoadIndexes(t *testing.T) {
	here, there := build.Platform(), "linux/s390x"
	ours, second, foreign := randomImage(t, "linux", runtime.GOARCH), randomImage(t, "linux", runtime.GOARCH), randomImage(t, "linux", "s390x")
	nested := func(add ...mutate.IndexAddendum) v1.ImageIndex { return mutate.AppendManifests(empty.Index, add...) }
	sparse := layoutOf(t, entry(ours, here, oci.RefName, "lab/one:1"))
	digest, err := ours.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(sparse, "blobs", "sha256", digest.Hex)); err != nil {
		t.Fatal(err)
	}
	docker := filepath.Join(t.TempDir(), "docker.tar")
	one, err := name.NewTag("lab/one:1")
	if err != nil {
		t.Fatal(err)
	}
	two, err := name.NewTag("lab/two:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.MultiRefWriteToFile(docker, map[name.Reference]v1.Image{one: ours, two: second}); err != nil {
		t.Fatal(err)
	}
	packed := filepath.Join(t.TempDir(), "packed.tar.xz")
	if err := os.WriteFile(packed, []byte("\xfd7zXZ\x00rest"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		file string
		want string // names, or a part of the error
		bad  bool
	}{
		"two images":            {file: layoutOf(t, entry(ours, here, oci.RefName, "lab/one:1"), entry(second, "", oci.RefName, "lab/two:2")), want: "lab/one:1 lab/two:2"},
		"two of docker save":    {file: docker, want: "lab/one:1 lab/two:1"},
		"other platforms":       {file: layoutOf(t, entry(foreign, there, oci.RefName, "lab/one:1"), entry(ours, here, oci.RefName, "lab/one:1")), want: "lab/one:1"},
		"nobody says platforms": {file: layoutOf(t, entry(nested(entry(foreign, ""), entry(ours, "")), "", oci.RefName, "lab/one:1")), want: "lab/one:1"},
		"an attestation": {file: layoutOf(t, entry(nested(entry(ours, here), entry(second, "unknown/unknown", attests, "attestation-manifest"),
			entry(second, "", attests, "attestation-manifest")), "", oci.RefName, "lab/one:1")), want: "lab/one:1"},
		"two for this machine":  {file: layoutOf(t, entry(nested(entry(ours, here), entry(second, here)), "")), want: "has 2 images for " + here, bad: true},
		"none for this machine": {file: layoutOf(t, entry(nested(entry(foreign, "")), "")), want: "only for " + there, bad: true},
		"a false platform":      {file: layoutOf(t, entry(foreign, here)), want: "it is for " + there, bad: true},
		"no platform":           {file: layoutOf(t, entry(randomImage(t, "", ""), "")), want: "no image that says what platform", bad: true},
		"not in the file":       {file: sparse, want: digest.String() + ", of which not all is in the archive", bad: true},
		"xz":                    {file: packed, want: "xz -d", bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := OpenArchive(t.Context(), c.file, 1<<20)
			if c.bad {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v does not say %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			var names []string
			for _, one := range a.Images {
				names = append(names, one.Name+":"+one.Tag)
			}
			slices.Sort(names)
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("images %q, want %q", got, c.want)
			}
		})
	}
}

func TestBadArchives(t *testing.T) {
	other := archives(t, randomImage(t, "linux", "s390x"))
	damaged := archives(t, randomImage(t, "linux", runtime.GOARCH))["folder"]
	blobs, err := filepath.Glob(filepath.Join(damaged, "blobs", "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(err)
	}
	largest := blobs[0]
	for _, b := range blobs {
		if fileSize(t, b) > fileSize(t, largest) {
			largest = b
		}
	}
	if err := os.Chmod(largest, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := buildtest.Flip(largest, false); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ file, want string }{
		"platform":        {other["folder"], "s390x"},
		"docker platform": {other["docker.tar"], "s390x"},
		"flipped byte":    {damaged, filepath.Base(largest)},
		"text":            {text, "neither a folder nor a tar archive"},
		"absent":          {text + "x", "no such file"},
		"empty folder":    {t.TempDir(), "neither"},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := OpenArchive(t.Context(), tc.file, 0)
			if err == nil {
				a.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v does not name %q", err, tc.want)
			}
		})
	}
}

// TestArchiveLimit: what unpacks to more than is allowed is refused before it is unpacked.
func TestArchiveLimit(t *testing.T) {
	for form, file := range archives(t, randomImage(t, "linux", runtime.GOARCH)) {
		a, err := OpenArchive(t.Context(), file, 100)
		if err == nil {
			a.Close()
		}
		if large, ok := errors.AsType[*TooLargeError](err); !ok || large.Limit != 100 || large.Size <= 100 {
			t.Errorf("%s: %v", form, err)
		}
	}
}

func fileSize(t *testing.T, file string) int64 {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// Whatever the archive says, nothing is written outside of the temporary folder, and it
// is gone afterwards.
func FuzzArchive(f *testing.F) {
	for _, file := range archives(f, randomImage(f, "linux", runtime.GOARCH)) {
		if data, err := os.ReadFile(file); err == nil {
			f.Add(data)
		}
	}
	var evil bytes.Buffer
	w := tar.NewWriter(&evil)
	for _, n := range []string{"oci-layout", "../escaped", "blobs/sha256/../../../escaped", "index.json"} {
		_ = w.WriteHeader(&tar.Header{Name: n, Mode: 0o644, Size: 2})
		_, _ = w.Write([]byte("{}"))
	}
	w.Close()
	f.Add(evil.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		t.Setenv("TMPDIR", filepath.Join(dir, "tmp"))
		if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o700); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "image.tar")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if a, err := OpenArchive(t.Context(), file, 1<<20); err == nil {
			a.Close()
		}
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && path != file {
				t.Errorf("left behind: %s", path)
			}
			return nil
		})
	})
}
