package image

import (
	"context"
	"flag"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/ui"
)

var (
	cacheFlag = flag.String("cache", "", "build everything of the catalogue into this cache folder (minutes; several GiB)")
	onlyFlag  = flag.String("only", "", "comma-separated names of binaries and images to build")
	linkFlag  = flag.String("link", "", "link the node distribution into this folder")
)

// TestDistribution builds the node distribution and every component's images out of this
// repository, and prints what each took:
//
//	go test ./internal/image -run TestDistribution -v -timeout 1h -args -cache /var/cache/orrery
func TestDistribution(t *testing.T) {
	if *cacheFlag == "" {
		t.Skip("compiles Kubernetes: give -args -cache DIR to run it")
	}
	root, err := catalog.FindRoot(".")
	if err != nil {
		t.Fatal(err)
	}
	c, err := catalog.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	wanted := func(name string) bool {
		return *onlyFlag == "" || slices.Contains(strings.Split(*onlyFlag, ","), name)
	}
	b, err := NewBuilder(Options{CacheDir: *cacheFlag, RepoRoot: root, Sink: ui.SinkFunc(func(e ui.Event) {
		t.Logf("%s: %s %.0f/%.0f %s, ETA %.0f s %s", e.Step, e.Message, e.Done, e.Total, e.Unit, e.ETA, e.Error)
	})})
	if err != nil {
		t.Fatal(err)
	}
	type wantedBinary struct {
		catalog.Binary
		dir string // to link it into
	}
	var binaries []wantedBinary
	for _, bin := range c.Distribution.Binaries {
		binaries = append(binaries, wantedBinary{bin, "."})
	}
	for _, bin := range c.Distribution.CNI {
		binaries = append(binaries, wantedBinary{bin, "cni"})
	}
	images := []catalog.Image{c.Distribution.Sandbox}
	for _, component := range c.Components {
		images = append(images, component.Images...)
	}
	slices.SortFunc(images, func(a, b catalog.Image) int { return strings.Compare(a.Name, b.Name) })
	for _, img := range images {
		for _, bin := range img.Binaries {
			binaries = append(binaries, wantedBinary{bin, ""})
		}
	}
	// All at once, as `up` asks for them.
	began := time.Now()
	var all errgroup.Group
	for _, bin := range binaries {
		if !wanted(bin.Name) {
			continue
		}
		all.Go(func() error {
			if _, err := b.Binary(t.Context(), bin.Binary); err != nil {
				return err
			}
			t.Logf("built %s after %.1f s", bin.Name, time.Since(began).Seconds())
			if bin.dir != "" && *linkFlag != "" {
				return b.Link(t.Context(), filepath.Join(*linkFlag, bin.dir), bin.Binary)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	wall, total := time.Since(began).Seconds(), 0.0
	for _, bin := range binaries {
		if m, ok := b.Measured(t.Context(), bin.Binary); ok && wanted(bin.Name) {
			total += m.CPUSeconds
			t.Logf("%-26s %7.1f CPU-s %6d MiB peak %6.1f MB", bin.Name, m.CPUSeconds, m.MaxRSSMiB, float64(m.Size)/1e6)
		}
	}
	t.Logf("%.0f CPU-seconds in all, %.1f s of wall time on %d cores", total, wall, cores())
	for _, img := range images {
		if !wanted(img.Name) {
			continue
		}
		began := time.Now()
		built, err := b.Image(context.Background(), img)
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(began)
		began = time.Now()
		if again, ok, err := b.CachedImage(t.Context(), img); !ok || err != nil || again != built {
			t.Errorf("CachedImage(%s) = %+v, %v, %v; want %+v", img.Name, again, ok, err, built)
		}
		t.Logf("image %-26s %6.1f MB %.1f s, looked up in %v: %s", img.Name, float64(built.Size)/1e6, took.Seconds(), time.Since(began), built.Reference())
	}
}
