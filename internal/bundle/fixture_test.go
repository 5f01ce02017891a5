package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/lock"
	"github.com/orrery-dev/orrery/internal/oci"
)

// fixture is a small platform: two images, two programs, a catalogue.
type fixture struct {
	Contents
	private ed25519.PrivateKey
	public  ed25519.PublicKey
}

// noise does not compress and is the same each time.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// text compresses well.
func text(seed, n int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "line of program %d\n", seed), n/18+1)[:n]
}

func newFixture(t testing.TB) fixture {
	t.Helper()
	dir := t.TempDir()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	f := fixture{private: private, public: public, Contents: Contents{
		Platform: "linux/amd64", Overlay: "local", Components: []string{"dns", "queue"},
		Root: filepath.Join(dir, "repo"), Files: []string{"infra/k8s/base/dns/component.yaml", "infra/run.sh", "go.mod"},
	}}
	for _, name := range append(f.Files, "orrery.lock") {
		put(t, filepath.Join(f.Root, name), []byte("content of "+name), 0o644)
	}
	if err := os.Chmod(filepath.Join(f.Root, "infra/run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	locked := lock.Platform{Binaries: map[string]lock.Binary{}, Images: map[string]lock.Image{}}
	program := func(name string, data []byte) lock.Binary {
		path := filepath.Join(dir, "cache", name)
		put(t, path, data, 0o555)
		f.Programs = append(f.Programs, Program{Name: name, SHA256: hexSum(data), Path: path})
		return lock.Binary{Module: "example.org/m", Package: "./" + name, Go: "go1.26.8", SHA256: hexSum(data)}
	}
	locked.Binaries["kubelet"] = program("kubelet", append(text(1, chunkSize), noise(1, chunkSize/8)...))
	locked.Binaries["runc"] = program("runc", text(2, 70_000))
	layout := filepath.Join(dir, "layout")
	for i, name := range []string{"dns", "queue"} {
		built := putImage(t, layout, name, noise(uint64(10+i), 300_000))
		f.Images = append(f.Images, built)
		locked.Binaries[name+"d"] = lock.Binary{Module: "example.org/m", Package: "./" + name, Go: "go1.26.8", SHA256: hexSum([]byte(name))}
		locked.Images[name] = lock.Image{Version: built.Version, Binaries: []string{name + "d"}, Digest: built.Digest}
	}
	raw, err := os.ReadFile(filepath.Join(layout, "blobs/sha256", hexOf(f.Images[0].Digest)))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := Document(oci.Describe(types.OCIManifestSchema1, raw), "application/vnd.cyclonedx+json", []byte(`{"bomFormat":"CycloneDX"}`))
	if err != nil {
		t.Fatal(err)
	}
	f.Attached = []Attached{doc}
	for _, name := range []string{"kubelet", "runc"} {
		f.ProgramDocuments = append(f.ProgramDocuments, ProgramDocument{name, "application/vnd.cyclonedx+json", []byte(`{"about":"` + name + `"}`)})
	}
	l := lock.Lock{APIVersion: lock.APIVersion, Kind: lock.Kind, Platforms: map[string]lock.Platform{f.Platform: locked}}
	if f.Lock, err = l.Format(); err != nil {
		t.Fatal(err)
	}
	return f
}

func put(t testing.TB, path string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
}

// putImage writes an image of one layer with two files.
func putImage(t testing.TB, layout, name string, program []byte) image.Built {
	t.Helper()
	blob := func(mediaType types.MediaType, data []byte) v1.Descriptor {
		d := oci.Describe(mediaType, data)
		put(t, filepath.Join(layout, "blobs/sha256", d.Digest.Hex), data, 0o644)
		return d
	}
	var layer bytes.Buffer
	z, err := zstd.NewWriter(&layer, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	for _, file := range []struct {
		name string
		data []byte
	}{{"etc/passwd", []byte("root:x:0:0:::\n")}, {name + "d", program}} {
		if err := w.WriteHeader(&tar.Header{Name: file.name, Size: int64(len(file.data)), Mode: 0o755, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(file.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	config := blob(types.OCIConfigJSON, []byte(`{"os":"linux","name":"`+name+`"}`))
	m, err := json.Marshal(oci.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: &config, Layers: []v1.Descriptor{blob(types.OCILayerZStd, layer.Bytes())}})
	if err != nil {
		t.Fatal(err)
	}
	return image.Built{Name: name, Version: "v1.0.0", Digest: "sha256:" + blob(types.OCIManifestSchema1, m).Digest.Hex, Layout: layout}
}

func (f fixture) options() CreateOptions {
	return CreateOptions{
		Sign:      func(data []byte) ([]byte, error) { return ed25519.Sign(f.private, data), nil },
		PublicKey: []byte("the public key"), Workers: 3,
	}
}

func (f fixture) verify(data, sig []byte) error {
	if !ed25519.Verify(f.public, data, sig) {
		return fmt.Errorf("wrong")
	}
	return nil
}

// create writes the fixture as a bundle.
func (f fixture) create(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "small"+Extension)
	if err := Create(context.Background(), file, f.Contents, f.options()); err != nil {
		t.Fatal(err)
	}
	return file
}

func opened(t testing.TB, file string) *File {
	t.Helper()
	b, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}
