package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// images times what asks whether all images are right, and measures what the nodes of a
// whole platform take for theirs.
func (b *bench) images(ctx context.Context, e env, r *report) error {
	b.say("images")
	if _, err := b.run(ctx, e, "up", "-o", "json"); err != nil {
		return err
	}
	var lock, list, pull, second []float64
	for range b.runs {
		for _, v := range []struct {
			args []string
			to   *[]float64
		}{{[]string{"lock", "--check"}, &lock}, {[]string{"images", "list", "-o", "json"}, &list}} {
			start := time.Now()
			if _, err := b.output1(ctx, e, v.args...); err != nil {
				return err
			}
			*v.to = append(*v.to, time.Since(start).Seconds())
		}
	}
	r.add("lock check", "s", 1, "whole process", lock...)
	r.add("images list", "s", 0.3, "whole process; every image known, built and as locked?", list...)
	if err := b.signing(ctx, e, r); err != nil {
		return err
	}
	taken, once := b.imageDisk(e)
	r.add("image content of all nodes", "MiB", 0, "", taken)
	r.add("… ÷ unpacked size, each layer once", "×", 1.5, fmt.Sprintf("of %.0f MiB", once), taken/once)
	for i := range b.runs {
		ref, err := b.pushLarge(ctx, e, i)
		if err != nil {
			return err
		}
		for _, p := range []struct {
			node string
			to   *[]float64
		}{{"agent1", &pull}, {"agent2", &second}} {
			took, err := b.pullTime(ctx, e, p.node, ref)
			if err != nil {
				return err
			}
			*p.to = append(*p.to, took.Seconds())
		}
	}
	r.add("pull and unpack 100 MB", "s", 1, "first node, from the mirror", pull...)
	r.add("… on a second node", "s", 1, "shared with the first", second...)
	_, err := b.run(ctx, e, "down", "-o", "json")
	return err
}

// imageDisk is what all nodes take for image content (blobs, snapshots of layers, shared
// layers), and what the layers take that are in use, each counted once.
func (b *bench) imageDisk(e env) (taken, once float64) {
	state := filepath.Join(b.dir, "state", e.name)
	seen := map[uint64]bool{}
	once = allocated(filepath.Join(state, "layers"), seen)
	taken = once
	nodes, _ := filepath.Glob(filepath.Join(state, "nodes", "*", "var/lib/containerd"))
	layers := map[string]bool{}
	for _, n := range nodes {
		taken += allocated(filepath.Join(n, "io.containerd.content.v1.content"), seen)
		snapshots, _ := filepath.Glob(filepath.Join(n, "io.containerd.snapshotter.v1.overlayfs/snapshots/*"))
		for _, s := range snapshots {
			if st, err := os.Lstat(filepath.Join(s, "fs")); err == nil && st.Mode()&os.ModeSymlink != 0 {
				taken += allocated(s, seen)
				continue
			}
			// A layer of the node's own; where containers write is not image content, but small.
			size := allocated(s, seen)
			taken += size
			if key := layerKey(s); key != "" && !layers[key] {
				layers[key] = true
				once += size
			}
		}
	}
	return taken, max(once, 1.0/mib)
}

// layerKey tells layers of several nodes apart by the names and sizes of their large files.
func layerKey(snapshot string) string {
	var key strings.Builder
	entries, _ := os.ReadDir(filepath.Join(snapshot, "fs"))
	for _, f := range entries {
		if i, err := f.Info(); err == nil && i.Mode().IsRegular() && i.Size() > 64<<10 {
			fmt.Fprintf(&key, "%s %d\n", f.Name(), i.Size())
		}
	}
	return key.String()
}

// pushLarge puts an image of 100 MB of program text into the mirror, another one each time.
func (b *bench) pushLarge(ctx context.Context, e env, n int) (string, error) {
	to, err := b.mirror(ctx, e)
	if err != nil {
		return "", err
	}
	dist := filepath.Join(b.dir, "state", e.name, "dist", "bin")
	layer, err := largeLayer(filepath.Join(dist, "kubernetes"), n)
	if err != nil {
		return "", err
	}
	img, err := mutate.Append(mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1), mutate.Addendum{Layer: layer})
	if err != nil {
		return "", err
	}
	img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/pause"}})
	if err != nil {
		return "", err
	}
	tag := fmt.Sprintf("bench-large:%d", time.Now().UnixNano())
	ref, err := name.NewTag(to.Address+"/"+tag, name.Insecure)
	if err != nil {
		return "", err
	}
	return "registry.orrery.internal/" + tag, remote.Write(ref, img, remote.WithContext(ctx), remote.WithAuth(to))
}

// described is a layer whose diff ID is known.
type described struct {
	v1.Layer
	diff v1.Hash
}

func (d described) DiffID() (v1.Hash, error) { return d.diff, nil }

func largeLayer(text string, n int) (v1.Layer, error) {
	data := make([]byte, 100_000_000)
	f, err := os.Open(text)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, err
	}
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	h := &tar.Header{Name: fmt.Sprintf("large-%d", n), Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(data)), ModTime: time.Now()}
	if err := w.WriteHeader(h); err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	diff, _, err := v1.SHA256(bytes.NewReader(plain.Bytes()))
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return described{static.NewLayer(z.EncodeAll(plain.Bytes(), nil), types.OCILayerZStd), diff}, nil
}

// pullTime runs a pod on node and returns what the kubelet says that its pull took. The
// image holds no program: the pod never starts, and need not.
func (b *bench) pullTime(ctx context.Context, e env, node, ref string) (time.Duration, error) {
	pod := fmt.Sprintf("bench-%d", time.Now().UnixNano())
	manifest := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"namespace":"default"},"spec":{"nodeName":%q,"restartPolicy":"Never","tolerations":[{"operator":"Exists"}],"containers":[{"name":"large","image":%q}]}}`, pod, node, ref)
	file := filepath.Join(b.dir, pod+".json")
	if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
		return 0, err
	}
	if _, err := b.kubectl(ctx, e, "create", "-f", file); err != nil {
		return 0, err
	}
	defer func() { _, _ = b.kubectl(ctx, e, "delete", "pod", pod, "-n", "default", "--wait=false", "--now") }()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		out, err := b.kubectl(ctx, e, "get", "events", "-n", "default", "--field-selector=reason=Pulled,involvedObject.name="+pod, "-o", "jsonpath={.items[0].message}")
		if err == nil && len(out) > 0 {
			// Successfully pulled image "…" in 512ms (512ms including waiting). …
			_, after, _ := strings.Cut(string(out), " in ")
			took, _, _ := strings.Cut(after, " ")
			return time.ParseDuration(took)
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%s did not pull %s within a minute", node, ref)
}

func (b *bench) kubectl(ctx context.Context, e env, args ...string) ([]byte, error) {
	cmd, stderr := b.command(ctx, e)
	// Only the environment's name may come before kubectl's own arguments.
	cmd.Args = append([]string{cmd.Path, "kubectl", "--env", e.name}, args...)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, stderr)
	}
	return out, nil
}
