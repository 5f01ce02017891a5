package image

import (
	"debug/elf"
	"runtime"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/build"
)

// TestAcross builds an image for another processor.
func TestAcross(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the runtime for another processor")
	}
	arch, machine := "arm64", elf.EM_AARCH64
	if runtime.GOARCH == arch {
		arch, machine = "amd64", elf.EM_X86_64
	}
	dir := t.TempDir()
	own, _ := newBuilder(t, dir)
	b, err := NewBuilder(build.Options{CacheDir: dir, Platform: "linux/" + arch})
	if err != nil {
		t.Fatal(err)
	}
	img := helloImage(t)
	native, err := own.Image(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	built, err := b.Image(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	if config, err := openImage(t, built).ConfigFile(); err != nil || config.Architecture != arch {
		t.Errorf("the image is for %s: %v", config.Architecture, err)
	}
	program, err := b.Binary(t.Context(), img.Binaries[0])
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != machine {
		t.Errorf("the program is for %v", f.Machine)
	}
	in, err := b.Inspect(t.Context(), img)
	if err != nil || in.Platform != "linux/"+arch {
		t.Errorf("inspection: %s, %v", in.Platform, err)
	}
	d, err := b.Describe(t.Context(), img.Binaries[0])
	if err != nil || !strings.Contains(strings.Join(d.Flags, " "), "GOARCH="+arch) {
		t.Errorf("described as %v, %v", d.Flags, err)
	}
	// The image of this machine is still there.
	if again, ok, err := own.CachedImage(t.Context(), img); !ok || err != nil || again.Digest != native.Digest || again.Digest == built.Digest {
		t.Errorf("our own image: %v %v, %s and %s", ok, err, again.Digest, native.Digest)
	}
	c := img.Binaries[0]
	c.CGO = true
	if _, err := b.Binary(t.Context(), c); err == nil || b.CannotCross(c) == "" || own.CannotCross(c) != "" {
		t.Errorf("C for another processor: %v", err)
	}
}

func TestBadPlatform(t *testing.T) {
	for _, p := range []string{"arm64", "windows/amd64", "linux/", "linux/arm/v7"} {
		if _, err := NewBuilder(build.Options{CacheDir: t.TempDir(), Platform: p}); err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %v", p, err)
		}
	}
}
