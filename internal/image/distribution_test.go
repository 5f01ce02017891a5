package image

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/ui"
)

var (
	cacheFlag = flag.String("cache", "", "build everything of the catalogue into this cache folder (minutes; several GiB)")
	onlyFlag  = flag.String("only", "", "comma-separated names of binaries and images to build; \"distribution\" stands for all of the node's")
	linkFlag  = flag.String("link", "", "link the node distribution into this folder")
)

// shipped is the catalogue of this repository.
func shipped(t *testing.T) *catalog.Catalog {
	t.Helper()
	c, err := catalog.Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDistribution builds the node distribution and every component's images out of this
// repository, and prints what each took:
//
//	go test ./internal/image -run TestDistribution -v -timeout 1h -args -cache /var/cache/orrery
func TestDistribution(t *testing.T) {
	if *cacheFlag == "" {
		t.Skip("compiles Kubernetes: give -args -cache DIR to run it")
	}
	c := shipped(t)
	node := map[string]bool{c.Distribution.Sandbox.Name: true}
	for _, bin := range slices.Concat(c.Distribution.Everything().Files(), c.Distribution.Sandbox.Binaries) {
		node[bin.Name] = true
	}
	only := strings.Split(*onlyFlag, ",")
	wanted := func(name string) bool {
		return *onlyFlag == "" || slices.Contains(only, name) || node[name] && slices.Contains(only, "distribution")
	}
	options := build.Options{CacheDir: *cacheFlag, RepoRoot: c.Root, Sink: ui.SinkFunc(func(e ui.Event) {
		t.Logf("%s: %s %.0f/%.0f %s, ETA %.0f s %s", e.Step, e.Message, e.Done, e.Total, e.Unit, e.ETA, e.Error)
	})}
	b, err := NewBuilder(options)
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
	for _, n := range c.Distribution.Networks {
		for _, bin := range slices.Concat(n.Binaries, n.CNI, n.Archives) {
			binaries = append(binaries, wantedBinary{bin, ""})
		}
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
	t.Logf("%.0f CPU-seconds in all, %.1f s of wall time on %d cores", total, wall, runtime.GOMAXPROCS(0))
	// What a second up spends on finding nothing to build.
	fresh, err := NewBuilder(options)
	if err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	for _, bin := range binaries {
		if _, err := fresh.Cached(t.Context(), bin.Binary); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("asked for %d binaries in %v", len(binaries), time.Since(began))
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

// TestRegistry pushes to the registry that nodes pull from, and reads back what it has.
func TestRegistry(t *testing.T) {
	if *cacheFlag == "" {
		t.Skip("compiles the registry: give -args -cache DIR to run it")
	}
	c := shipped(t)
	b, err := NewBuilder(build.Options{CacheDir: *cacheFlag, RepoRoot: c.Root})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(c.Distribution.Binaries, func(b catalog.Binary) bool { return b.Name == "registry" })
	program, err := b.Binary(t.Context(), c.Distribution.Binaries[i])
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	config := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", t.TempDir(), address), 0o644); err != nil {
		t.Fatal(err)
	}
	server := exec.Command(program, "serve", config)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	defer server.Process.Kill()
	for deadline := time.Now().Add(20 * time.Second); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	defer remote.DefaultTransport.(*http.Transport).CloseIdleConnections()
	for _, img := range append(c.Components["nats"].Images, c.Distribution.Sandbox) {
		built, err := b.Image(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{"first", "second"} {
			began := time.Now()
			if err := Push(t.Context(), inMirror(address), built); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s push of %s (%.1f MB): %v", kind, img.Name, float64(built.Size)/1e6, time.Since(began))
		}
		ref, err := name.NewDigest(address+"/"+built.Name+"@"+built.Digest, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		pulled, err := remote.Image(ref)
		if err != nil {
			t.Fatal(err)
		}
		valid(t, pulled)
	}
}
