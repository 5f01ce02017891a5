package image

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
)

// The first difference of two images is named down to the byte.
func TestCompare(t *testing.T) {
	dir := t.TempDir()
	b, _ := newBuilder(t, dir)
	make := func(change func(*catalog.Image)) Built {
		img := helloImage(t)
		change(&img)
		built, err := b.Image(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		return built
	}
	first := make(func(*catalog.Image) {})
	for name, tc := range map[string]struct {
		change func(*catalog.Image)
		want   []string
	}{
		"program":   {func(i *catalog.Image) { i.Name = "a"; i.Binaries[0].LDFlags = "-X main.who=there" }, []string{"layer 1", "/hello", "offset", "0x"}},
		"user":      {func(i *catalog.Image) { i.Name = "b"; i.User = "0" }, []string{"layer 0", "owner 65532:65532", "owner 0:0"}},
		"directory": {func(i *catalog.Image) { i.Name = "c"; i.Directories = nil }, []string{"layer 0", "/var/", "only the first"}},
		"link":      {func(i *catalog.Image) { i.Name = "d"; i.Binaries[0].Links = []string{"ho"} }, []string{"layer 1", "/hi", "ho"}},
		"label":     {func(i *catalog.Image) { i.Name = "e" }, []string{"configuration", "offset"}},
	} {
		t.Run(name, func(t *testing.T) {
			other := make(tc.change)
			m, err := Compare(first, other)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tc.want {
				if m == nil || !strings.Contains(m.String(), want) {
					t.Errorf("%v does not name %q", m, want)
				}
			}
		})
	}
	if m, err := Compare(first, first); m != nil || err != nil {
		t.Errorf("an image differs from itself: %v, %v", m, err)
	}
}

func TestInspect(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	in, err := b.Inspect(t.Context(), helloImage(t))
	if err != nil {
		t.Fatal(err)
	}
	if in.User != "65532:65532" || len(in.Layers) != 2 || len(in.Programs) != 1 {
		t.Fatalf("%+v", in)
	}
	i := slices.IndexFunc(in.Layers[1].Files, func(f FileInfo) bool { return f.Path == "/hello" })
	if i < 0 || len(in.Layers[1].Files[i].SHA256) != 64 || in.Layers[1].Files[i].Mode != 0o755 {
		t.Errorf("files %+v", in.Layers[1].Files)
	}
	// Of an image that was not made here, the same is found in its layers.
	read, err := ReadImage(t.Context(), in.Built)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(read, in) {
		t.Errorf("read %+v, inspected %+v", read, in)
	}
	// What was noted when it was packed is what is in it; a damaged note does not count.
	noted, err := b.Contents(t.Context(), helloImage(t))
	if err != nil || !reflect.DeepEqual(noted, in) {
		t.Errorf("noted %+v, inspected %+v: %v", noted, in, err)
	}
	for _, l := range in.Layers {
		if err := os.WriteFile(b.layout.filesNote(l.Digest), []byte(`{"digest":"sha256:`), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := b.Contents(t.Context(), helloImage(t)); err != nil || !reflect.DeepEqual(again, in) {
		t.Errorf("with damaged notes %+v: %v", again, err)
	}
	if p := in.Programs[0]; p.Main.Path != "example.org/hello" || !slices.Contains(p.Settings, "-trimpath=true") {
		t.Errorf("program %+v", p)
	}
}

// otherArch is a processor that this machine does not have.
func otherArch() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

func TestPrune(t *testing.T) {
	b, _ := newBuilder(t, t.TempDir())
	img := helloImage(t)
	old := helloImage(t)
	old.Name, old.Binaries[0].Name = "old", "old"
	for _, i := range []catalog.Image{img, old} {
		if _, err := b.Image(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	kept := func(ctx context.Context, i catalog.Image) bool {
		_, image, err := b.CachedImage(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		binary, err := b.Cached(ctx, i.Binaries[0])
		if err != nil {
			t.Fatal(err)
		}
		if image != binary {
			t.Fatalf("%s: image there %v, binary there %v", i.Name, image, binary)
		}
		return image
	}
	for _, dryRun := range []bool{true, false} {
		p, err := b.Prune(t.Context(), img.Binaries, []catalog.Image{img}, dryRun)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Binaries) != 1 || !strings.HasPrefix(p.Binaries[0], "old ") || !slices.Equal(p.Images, []string{"old:v1.2.3"}) || p.Bytes < 1000 {
			t.Errorf("pruned %+v", p)
		}
		if kept(t.Context(), old) != dryRun || !kept(t.Context(), img) {
			t.Errorf("dry run %v: kept old %v, current %v", dryRun, kept(t.Context(), old), kept(t.Context(), img))
		}
	}
	// What was made for another platform stays as long as somebody names it.
	arm, err := NewBuilder(build.Options{CacheDir: b.CacheDir(), Platform: "linux/" + otherArch()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := arm.Image(t.Context(), img); err != nil {
		t.Fatal(err)
	}
	if p, err := b.Prune(t.Context(), img.Binaries, []catalog.Image{img}, false, arm); err != nil || len(p.Binaries)+len(p.Images) != 0 {
		t.Errorf("with what another platform needs: %+v, %v", p, err)
	}
	if _, ok, err := arm.CachedImage(t.Context(), img); err != nil || !ok {
		t.Errorf("the image for another platform is gone: %v", err)
	}
	p, err := b.Prune(t.Context(), img.Binaries, []catalog.Image{img}, false)
	if err != nil || len(p.Binaries) != 1 || len(p.Images) != 1 || !strings.Contains(p.Images[0], "linux/"+otherArch()) {
		t.Errorf("without it: %+v, %v", p, err)
	}
	if p, err := b.Prune(t.Context(), img.Binaries, []catalog.Image{img}, false); err != nil || p.Bytes != 0 || len(p.Binaries)+len(p.Images) != 0 {
		t.Errorf("a second time: %+v, %v", p, err)
	}
}

// Pruning beside builds, as two processes would: what is kept is always there, and no build
// fails of what goes.
func TestPruneBesideBuilds(t *testing.T) {
	dir := t.TempDir()
	builder, _ := newBuilder(t, dir)
	pruner, _ := newBuilder(t, dir)
	kept, goes := helloImage(t), helloImage(t)
	goes.Name, goes.Binaries[0].Name, goes.Binaries[0].Links = "goes", "goes", nil
	if _, err := builder.Image(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	const rounds = 8
	var work, pruning sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		pruning.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if _, err := pruner.Prune(t.Context(), kept.Binaries, []catalog.Image{kept}, false); err != nil {
					t.Errorf("prune: %v", err)
					return
				}
			}
		})
	}
	removed := 0
	for n := range 2 {
		work.Go(func() {
			for range rounds {
				if n == 0 {
					// Made again whenever it has gone.
					if cached, err := builder.Cached(t.Context(), goes.Binaries[0]); err == nil && !cached {
						removed++
					}
					if _, err := builder.Binary(t.Context(), goes.Binaries[0]); err != nil {
						t.Errorf("build of what goes: %v", err)
					}
				}
				built, err := builder.Image(t.Context(), kept)
				if err != nil {
					t.Errorf("build of what stays: %v", err)
					continue
				}
				valid(t, openImage(t, built))
			}
		})
	}
	work.Wait()
	close(done)
	pruning.Wait()
	t.Logf("%d of %d builds found it gone", removed, rounds)
	if ok, err := builder.Cached(t.Context(), kept.Binaries[0]); err != nil || !ok {
		t.Errorf("what was to stay: cached %v, %v", ok, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "bin", ".tmp", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
