package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/image"
	"github.com/orrery-dev/orrery/internal/oci"
	"github.com/orrery-dev/orrery/internal/ui"
)

// An import that was stopped anywhere goes on, and keeps what was whole.
func TestImportResumes(t *testing.T) {
	f := newFixture(t)
	b := opened(t, f.create(t))
	cache := t.TempDir()
	for stop := int64(0); ; stop += b.size / 5 {
		ctx, cancel := context.WithCancel(t.Context())
		sink := ui.SinkFunc(func(ui.Event) {})
		o := ImportOptions{CacheDir: cache, Sink: sink, Workers: 1, Have: func(string) (string, bool) {
			// Asked once for each blob that is not there: a clock that counts work.
			if stop -= b.size / 12; stop <= 0 {
				cancel()
			}
			return "", false
		}}
		r, err := b.Import(ctx, o)
		cancel()
		if err == nil {
			if r.Kept == 0 {
				t.Error("nothing of the interrupted imports was kept")
			}
			t.Logf("kept %d, written %d", r.Kept, r.Written)
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if _, err := OpenImported(cache, b.Digest()); !errors.Is(err, ErrNotImported) {
			t.Errorf("half an import can be seen: %v", err)
		}
	}
	whole(t, cache, f, b)
}

// What an interrupted import left is hashed again.
func TestImportDoesNotTrustRests(t *testing.T) {
	f := newFixture(t)
	b := opened(t, f.create(t))
	cache := t.TempDir()
	part := filepath.Join(cache, dirName, partPrefix+b.digest)
	for _, e := range b.sorted() {
		if e.kind != kindCatalog {
			_, size := e.want()
			put(t, e.target(part), bytes.Repeat([]byte("x"), int(size)), 0o644)
			put(t, e.target(part)+".tmp", []byte("rest"), 0o644)
		}
	}
	put(t, filepath.Join(part, "catalog", "infra", "evil.yaml"), []byte("evil"), 0o644)
	r, err := b.Import(t.Context(), ImportOptions{CacheDir: cache})
	if err != nil || r.Kept != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	whole(t, cache, f, b)
	if _, err := os.Stat(filepath.Join(r.Dir, "catalog", "infra", "evil.yaml")); err == nil {
		t.Error("a file that is not of the catalogue survived")
	}
}

// whole checks every file of an imported fixture, and that there is no other.
func whole(t *testing.T, cache string, f fixture, b *File) {
	t.Helper()
	dir := Dir(cache, b.Digest())
	want := map[string]bool{oci.IndexFile: true, oci.LayoutFile: true, signatureName: true, "catalog/orrery.lock": true}
	for _, name := range f.Files {
		want["catalog/"+name] = true
	}
	for _, e := range b.sorted() {
		if e.kind == kindCatalog {
			continue
		}
		path := e.target(dir)
		rel, _ := filepath.Rel(dir, path)
		want[rel] = true
		sum, _ := e.want()
		if got, err := disk.SHA256(path); err != nil || got != sum {
			t.Errorf("%s of %s: %s, %v", rel, e.owner, got, err)
		}
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, path); err == nil && !d.IsDir() && !want[rel] {
			t.Errorf("%s has no business there", rel)
		}
		return err
	})
}

// Of several at once one works, the others wait for it.
func TestImportsAtOnce(t *testing.T) {
	f := newFixture(t)
	file := f.create(t)
	cache := t.TempDir()
	var wg sync.WaitGroup
	var mu sync.Mutex
	worked, waited := 0, 0
	for range 4 {
		wg.Go(func() {
			b, err := Open(file)
			if err != nil {
				t.Error(err)
				return
			}
			defer b.Close()
			r, err := b.Import(t.Context(), ImportOptions{CacheDir: cache, Sink: ui.SinkFunc(func(e ui.Event) {
				if strings.Contains(e.Message, "waiting for it") {
					mu.Lock()
					waited++
					mu.Unlock()
				}
			})})
			if err != nil {
				t.Error(err)
			}
			if !r.Already {
				mu.Lock()
				worked++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if worked != 1 {
		t.Errorf("%d imports did the work", worked)
	}
	t.Logf("%d waited", waited)
}

// A file that is lost or damaged after the import is put back by the next one.
func TestImportRepairs(t *testing.T) {
	f := newFixture(t)
	b := opened(t, f.create(t))
	cache := t.TempDir()
	r, err := b.Import(t.Context(), ImportOptions{CacheDir: cache})
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(r.Dir, "bin", f.Programs[0].SHA256)
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	flip(t, program, 12345)
	store := storeOf(t, cache, b.Digest())
	bin := catalog.Binary{Name: "kubelet"}
	if err := store.Link(t.Context(), t.TempDir(), bin); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "import the bundle again") {
		t.Errorf("a damaged program was linked: %v", err)
	}
	if ok, _ := store.Cached(t.Context(), bin); ok {
		t.Error("the damaged program is still offered")
	}
	if err := os.Remove(filepath.Join(r.Dir, "blobs/sha256", hexOf(f.Images[1].Digest))); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenImported(cache, b.Digest()); !errors.Is(err, ErrNotImported) {
		t.Errorf("without a manifest: %v", err)
	}
	again, err := b.Import(t.Context(), ImportOptions{CacheDir: cache})
	if err != nil || again.Already {
		t.Fatalf("%+v, %v", again, err)
	}
	whole(t, cache, f, b)
	if err := storeOf(t, cache, b.Digest()).Link(t.Context(), t.TempDir(), bin); err != nil {
		t.Error(err)
	}
}

// Files that the machine has are linked, unless they only look the same.
func TestImportLinks(t *testing.T) {
	f := newFixture(t)
	b := opened(t, f.create(t))
	lie := filepath.Join(t.TempDir(), "lie")
	put(t, lie, bytes.Repeat([]byte("x"), 70_000), 0o555)
	r, err := b.Import(t.Context(), ImportOptions{CacheDir: t.TempDir(), Have: func(sum string) (string, bool) {
		switch sum {
		case f.Programs[0].SHA256:
			return f.Programs[0].Path, true
		case f.Programs[1].SHA256:
			return lie, true
		}
		return "", false
	}})
	if err != nil {
		t.Fatal(err)
	}
	for i, linked := range []bool{true, false} {
		info, err := os.Stat(filepath.Join(r.Dir, "bin", f.Programs[i].SHA256))
		if err != nil {
			t.Fatal(err)
		}
		if got := links(info) == 2; got != linked {
			t.Errorf("%s is linked: %v", f.Programs[i].Name, got)
		}
	}
	if sum, _ := disk.SHA256(filepath.Join(r.Dir, "bin", f.Programs[1].SHA256)); sum != f.Programs[1].SHA256 {
		t.Error("a file that only looked the same was taken")
	}
}

func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	f := newFixture(t)
	file := f.create(t)
	b := opened(t, file)
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip(err)
	}
	defer func() { _ = unix.Unmount(small, unix.MNT_DETACH) }()
	_, err := b.Import(t.Context(), ImportOptions{CacheDir: small})
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "MB are free") {
		t.Errorf("import: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(small, dirName, partPrefix+"*")); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
	if err := Create(t.Context(), filepath.Join(small, "x.orrery"), f.Contents, f.options()); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "make room") {
		t.Errorf("create: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(small, "x.orrery*")); len(left) > 0 {
		t.Errorf("create left %v", left)
	}
}

// What is signed may still want to do harm: the signer may have been tricked.
func TestHostileContent(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*Contents)
		want string
	}{
		"nothing attached":               {func(c *Contents) { c.Attached = nil }, ""},
		"two programs of one name":       {func(c *Contents) { c.Programs[1].Name = "kubelet" }, "a second program"},
		"program whose name is a path":   {func(c *Contents) { c.Programs[1].Name = "../../etc/passwd" }, "no name and SHA-256"},
		"component whose name is a path": {func(c *Contents) { c.Components = []string{"../x"} }, "no name of a component"},
		"image whose version is a path":  {func(c *Contents) { c.Images[0].Version = "../x" }, "must be NAME:VERSION"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			c.do(&f.Contents)
			b, err := Open(f.create(t))
			if err == nil {
				defer b.Close()
				_, err = b.Import(t.Context(), ImportOptions{CacheDir: t.TempDir()})
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v; want %q in it", err, c.want)
			}
		})
	}
}

func TestPrune(t *testing.T) {
	f := newFixture(t)
	b := opened(t, f.create(t))
	cache := t.TempDir()
	if _, err := b.Import(t.Context(), ImportOptions{CacheDir: cache}); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(cache, dirName, partPrefix+strings.Repeat("0", 64), "bin", "rest"), []byte("x"), 0o644)
	keep := func(string) bool { return true }
	if p, err := Prune(cache, keep, true); err != nil || len(p) != 1 {
		t.Errorf("dry run: %v, %v", p, err)
	}
	if p, err := Prune(cache, keep, false); err != nil || len(p) != 1 || len(List(cache)) != 1 {
		t.Errorf("rests: %v, %v", p, err)
	}
	if p, err := Prune(cache, func(string) bool { return false }, false); err != nil || len(p) != 1 || p[0].Bytes < 1<<20 || len(List(cache)) != 0 {
		t.Errorf("all: %v, %v", p, err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, dirName, "[^.]*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestDiff(t *testing.T) {
	f := newFixture(t)
	a := opened(t, f.create(t))
	data := text(3, 90_000)
	path := filepath.Join(t.TempDir(), "runc")
	put(t, path, data, 0o555)
	f.Programs = slices.Clone(f.Programs)
	f.Programs[1] = Program{Name: "runc", SHA256: hexSum(data), Path: path}
	b := opened(t, f.create(t))
	needs, fetch, total := Diff(a.Items(), b.Items())
	if len(needs) != 1 || needs[0].Name != "runc" || needs[0].Bytes != fetch || fetch == 0 || fetch >= total {
		t.Errorf("%v, %d of %d", needs, fetch, total)
	}
	if needs, fetch, _ := Diff(b.Items(), b.Items()); len(needs) != 0 || fetch != 0 {
		t.Errorf("of itself: %v", needs)
	}
	if _, fetch, total := Diff(nil, b.Items()); fetch != total {
		t.Errorf("of nothing: %d of %d", fetch, total)
	}
}

// Killed at any moment, create leaves no bundle, and import none that can be seen; the next
// of each ends well.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("BUNDLE_TEST_CHILD"); dir != "" {
		t.Skip("only as the child")
	}
	f := newFixture(t)
	file := f.create(t)
	cache := t.TempDir()
	out := filepath.Join(t.TempDir(), "out.orrery")
	killed := 0
	for i := range 12 {
		after := time.Duration(i*6) * time.Millisecond
		for _, mode := range []string{"import", "create"} {
			cmd := exec.Command(os.Args[0], "-test.run", "TestChild", "-test.v")
			cmd.Env = append(os.Environ(), "BUNDLE_TEST_CHILD="+mode, "BUNDLE_TEST_FILE="+file, "BUNDLE_TEST_CACHE="+cache, "BUNDLE_TEST_OUT="+out)
			r, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			line := make([]byte, 4096)
			for n := 0; !bytes.Contains(line[:n], []byte("begin")); {
				m, err := r.Read(line[n:])
				if n += m; err != nil {
					t.Fatalf("%s: %q %v", mode, line[:n], err)
				}
			}
			time.Sleep(after) // where it is hit is the luck of each round
			_ = cmd.Process.Signal(syscall.SIGKILL)
			if err := cmd.Wait(); err != nil {
				killed++
			}
		}
		if _, err := os.Stat(out); err == nil {
			b, err := Open(out) // it was quick enough: then it is whole
			if err != nil {
				t.Fatalf("after %v: %v", after, err)
			}
			b.Close()
			os.Remove(out)
		}
		if _, err := os.Stat(Dir(cache, opened(t, file).Digest())); err == nil {
			whole(t, cache, f, opened(t, file))
			os.RemoveAll(filepath.Join(cache, dirName))
		}
	}
	t.Logf("%d of 24 processes were killed at work", killed)
	if err := Create(t.Context(), out, f.Contents, f.options()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(out + ".partial"); err == nil {
		t.Error("the rest of a killed create is still there")
	}
	b := opened(t, file)
	if _, err := b.Import(t.Context(), ImportOptions{CacheDir: cache}); err != nil {
		t.Fatal(err)
	}
	whole(t, cache, f, b)
}

// TestChild is what TestKilled kills.
func TestChild(t *testing.T) {
	mode := os.Getenv("BUNDLE_TEST_CHILD")
	if mode == "" {
		t.Skip("a child of TestKilled")
	}
	b := opened(t, os.Getenv("BUNDLE_TEST_FILE"))
	f := newFixture(t)
	fmt.Println("begin")
	if mode == "import" {
		if _, err := b.Import(t.Context(), ImportOptions{CacheDir: os.Getenv("BUNDLE_TEST_CACHE"), Workers: 1}); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := Create(t.Context(), os.Getenv("BUNDLE_TEST_OUT"), f.Contents, f.options()); err != nil {
		t.Fatal(err)
	}
}

// What others attached to an image that was pulled goes with it, into the mirror too.
func TestPulledImageKeepsWhatIsAttached(t *testing.T) {
	f := newFixture(t)
	built := f.Images[0]
	raw, err := os.ReadFile(filepath.Join(built.Layout, "blobs/sha256", hexOf(built.Digest)))
	if err != nil {
		t.Fatal(err)
	}
	subject := oci.Describe(types.OCIManifestSchema1, raw)
	signature := []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`)
	config, layer := oci.Describe(types.OCIEmptyJSON, []byte(oci.EmptyContent)), oci.Describe("application/vnd.dev.sigstore.bundle.v0.3+json", signature)
	m, err := json.Marshal(oci.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: &config, Layers: []v1.Descriptor{layer}, Subject: &subject})
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range [][]byte{m, signature, []byte(oci.EmptyContent)} {
		put(t, filepath.Join(built.Layout, "blobs/sha256", hexSum(data)), data, 0o644)
	}
	if err := image.NotePulled(built, []v1.Descriptor{subject}, []v1.Descriptor{oci.Describe(types.OCIManifestSchema1, m)}); err != nil {
		t.Fatal(err)
	}
	attached, err := AttachedTo(built)
	if err != nil || len(attached) != 1 {
		t.Fatalf("%v, %v", attached, err)
	}
	f.Attached = append(f.Attached, attached...)
	b := opened(t, f.create(t))
	cache := t.TempDir()
	if _, err := b.Import(t.Context(), ImportOptions{CacheDir: cache}); err != nil {
		t.Fatal(err)
	}
	store := storeOf(t, cache, b.Digest())
	got, ok, err := store.CachedImage(t.Context(), catalog.Image{Name: built.Name})
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if there := image.Attached(got); len(there) != 1 || there[0].Digest.Hex != hexSum(m) {
		t.Errorf("the mirror gets %v", there)
	}
	other, _, _ := store.CachedImage(t.Context(), catalog.Image{Name: f.Images[1].Name})
	if there := image.Attached(other); len(there) != 0 {
		t.Errorf("an image that was built: %v", there)
	}
}
