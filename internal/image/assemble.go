package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/oci"
)

// imageFormat is part of every image's key. Raise it when the same inputs are to become
// other bytes.
const imageFormat = "orrery-image-1"

// nonroot is who images run as by default, the number that distroless made customary.
const nonroot = "65532:65532"

// Built is an image in the local store.
type Built struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Digest  string `json:"digest"` // of the manifest: "sha256:…"
	Size    int64  `json:"size"`   // bytes to transfer: manifest, configuration and compressed layers
	// Layout is the OCI layout folder that holds it.
	Layout string `json:"-"`
}

// Reference names the image for manifests. The digest is what counts; the version is for
// people.
func (b Built) Reference() string {
	return mirror.Host + "/" + b.Name + ":" + b.Version + "@" + b.Digest
}

// Image makes img, building its binaries first where needed. The result is a pure
// function of the binaries and img itself: same inputs, same digest, on every machine.
func (b *Builder) Image(ctx context.Context, img catalog.Image) (Built, error) {
	key, err := b.imageKey(ctx, img)
	if err != nil {
		return Built{}, err
	}
	if built, ok := b.layout.made(key); ok {
		return built, nil
	}
	if err := b.images.Do(ctx, key, func() error { return b.assemble(ctx, key, img) }); err != nil {
		return Built{}, fmt.Errorf("image %s: %w", img.Name, err)
	}
	built, ok := b.layout.made(key)
	if !ok {
		return Built{}, fmt.Errorf("image %s: it is gone again from %s; is something else cleaning up there?", img.Name, b.layout.dir)
	}
	return built, nil
}

// CachedImage returns img if it was made already; it looks at files' names and sizes only.
func (b *Builder) CachedImage(ctx context.Context, img catalog.Image) (Built, bool, error) {
	key, err := b.imageKey(ctx, img)
	if err != nil {
		return Built{}, false, err
	}
	built, ok := b.layout.made(key)
	return built, ok, nil
}

func (b *Builder) imageKey(ctx context.Context, img catalog.Image) (string, error) {
	if img.Name == "" || img.Version == "" || len(img.Binaries) == 0 {
		return "", fmt.Errorf("image %q: name, version and at least one binary are needed", img.Name)
	}
	if _, err := parseUser(img.User); err != nil {
		return "", fmt.Errorf("image %s: %w", img.Name, err)
	}
	add, sum := build.NewKey()
	add("format", imageFormat)
	add("image", img.Name, img.Version, img.User)
	add("directories", img.Directories...)
	add("entrypoint", img.Entrypoint...)
	for _, bin := range img.Binaries {
		key, err := b.Key(ctx, bin)
		if err != nil {
			return "", fmt.Errorf("image %s: %w", img.Name, err)
		}
		add("binary", bin.Name, key)
		add("links", bin.Links...)
	}
	return sum(), nil
}

// assemble makes the image and writes it into the layout.
func (b *Builder) assemble(ctx context.Context, key string, img catalog.Image) error {
	binaries := make([]string, len(img.Binaries))
	work, gctx := errgroup.WithContext(ctx)
	for i, bin := range img.Binaries {
		work.Go(func() error {
			var err error
			binaries[i], err = b.Verified(gctx, bin)
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	unlock, err := b.layout.lock(ctx, filelock.Exclusive)
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := b.layout.made(key); ok {
		return nil // by the process that held the lock
	}
	who, err := parseUser(img.User)
	if err != nil {
		return err
	}
	base, err := b.layout.addLayer(func(w *tar.Writer) error { return writeBase(w, who, img.Directories) })
	if err != nil {
		return err
	}
	layers := []layer{base}
	for i, bin := range img.Binaries {
		l, err := b.layout.addLayer(func(w *tar.Writer) error { return writeBinary(w, bin, binaries[i]) })
		if err != nil {
			return fmt.Errorf("pack %s: %w", bin.Name, err)
		}
		layers = append(layers, l)
	}
	from, err := b.Source(img.Binaries[0])
	if err != nil {
		return err
	}
	entrypoint := img.Entrypoint
	if len(entrypoint) == 0 {
		entrypoint = []string{"/" + img.Binaries[0].Name}
	}
	config := v1.ConfigFile{
		Architecture: b.layout.arch,
		OS:           "linux",
		Created:      v1.Time{Time: time.Unix(0, 0).UTC()},
		RootFS:       v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Entrypoint: entrypoint,
			User:       who.String(),
			Env:        []string{"PATH=/"},
			WorkingDir: "/",
			Labels: map[string]string{
				oci.Title:                                img.Name,
				"org.opencontainers.image.version":       img.Version,
				"org.opencontainers.image.source-module": from,
			},
		},
	}
	manifest := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.diffID)
		config.History = append(config.History, v1.History{Created: config.Created, CreatedBy: "orrery"})
		manifest.Layers = append(manifest.Layers, v1.Descriptor{MediaType: types.OCILayerZStd, Size: l.size, Digest: l.digest})
	}
	if manifest.Config, err = b.layout.addJSON(types.OCIConfigJSON, config); err != nil {
		return err
	}
	descriptor, err := b.layout.addJSON(types.OCIManifestSchema1, manifest)
	if err != nil {
		return err
	}
	built := Built{Name: img.Name, Version: img.Version, Digest: descriptor.Digest.String(), Size: descriptor.Size + manifest.Config.Size}
	for _, l := range layers {
		built.Size += l.size
	}
	return b.layout.commit(key, built, descriptor, manifest)
}

// user is who an image runs as.
type user struct{ uid, gid int }

func (u user) String() string { return fmt.Sprintf("%d:%d", u.uid, u.gid) }

// parseUser reads UID[:GID]. Numbers only: Kubernetes cannot tell whether a name is root.
func parseUser(s string) (user, error) {
	if s == "" {
		s = nonroot
	}
	uid, gid, both := strings.Cut(s, ":")
	if !both {
		gid = uid
	}
	var u user
	var err1, err2 error
	u.uid, err1 = strconv.Atoi(uid)
	u.gid, err2 = strconv.Atoi(gid)
	if err1 != nil || err2 != nil || u.uid < 0 || u.gid < 0 {
		return user{}, fmt.Errorf("user %q: want UID or UID:GID in numbers", s)
	}
	return u, nil
}

// writeBase writes what every image has besides its binaries: the folders that a runtime
// mounts over, /tmp, and names for the users that occur.
func writeBase(w *tar.Writer, who user, directories []string) error {
	passwd := "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"
	group := "root:x:0:\nnonroot:x:65532:\n"
	if who.uid != 0 && who.uid != 65532 {
		passwd += fmt.Sprintf("app:x:%d:%d:app:/:/sbin/nologin\n", who.uid, who.gid)
	}
	if who.gid != 0 && who.gid != 65532 {
		group += fmt.Sprintf("app:x:%d:\n", who.gid)
	}
	type entry struct {
		name string
		mode int64
		dir  bool
		text string
		user user
	}
	entries := []entry{
		{name: "dev/", mode: 0o755, dir: true},
		{name: "etc/", mode: 0o755, dir: true},
		{name: "etc/group", mode: 0o644, text: group},
		{name: "etc/passwd", mode: 0o644, text: passwd},
		{name: "proc/", mode: 0o555, dir: true},
		{name: "sys/", mode: 0o555, dir: true},
		{name: "tmp/", mode: 0o1777, dir: true},
	}
	have := map[string]bool{}
	for _, e := range entries {
		have[e.name] = true
	}
	for _, d := range directories {
		clean := strings.TrimPrefix(path.Clean("/"+d), "/")
		if clean == "" || !strings.HasPrefix(d, "/") {
			return fmt.Errorf("directory %q: want an absolute path", d)
		}
		// Parents first, and they are root's.
		for i, r := range clean + "/" {
			name := clean[:min(i, len(clean))] + "/"
			if r != '/' || have[name] {
				continue
			}
			have[name] = true
			e := entry{name: name, mode: 0o755, dir: true}
			if i == len(clean) {
				e.user = who
			}
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	for _, e := range entries {
		h := header(e.name, e.mode)
		h.Uid, h.Gid = e.user.uid, e.user.gid
		if e.dir {
			h.Typeflag = tar.TypeDir
		}
		h.Size = int64(len(e.text))
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			return err
		}
	}
	return nil
}

// writeBinary writes /NAME and its further names.
func writeBinary(w *tar.Writer, bin catalog.Binary, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if bin.Archive() {
		return writeArchive(w, "opt/"+bin.Name, tar.NewReader(f))
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h := header(bin.Name, 0o755)
	h.Size = info.Size()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if _, err := io.Copy(w, f); err != nil {
		return err
	}
	for _, name := range slices.Sorted(slices.Values(bin.Links)) {
		h := header(name, 0o777)
		h.Typeflag, h.Linkname = tar.TypeSymlink, bin.Name
		if err := w.WriteHeader(h); err != nil {
			return err
		}
	}
	return nil
}

// writeArchive writes what is in an archive below a folder, and the folders that it is in.
func writeArchive(w *tar.Writer, at string, r *tar.Reader) error {
	made := map[string]bool{}
	var folder func(string) error
	folder = func(name string) error {
		if name == "." || made[name] {
			return nil
		}
		made[name] = true
		if err := folder(path.Dir(name)); err != nil {
			return err
		}
		h := header(name+"/", 0o755)
		h.Typeflag = tar.TypeDir
		return w.WriteHeader(h)
	}
	for {
		from, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		h := header(path.Join(at, from.Name), from.Mode)
		if h.Size = from.Size; !strings.HasPrefix(h.Name, at+"/") {
			return fmt.Errorf("%q leads out of the archive", from.Name)
		}
		if err := folder(path.Dir(h.Name)); err != nil {
			return err
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
}

// header is root's, of no particular time.
func header(name string, mode int64) *tar.Header {
	return &tar.Header{Name: name, Mode: mode, Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
}

// layer is a compressed tar in the layout.
type layer struct {
	diffID, digest v1.Hash
	size           int64
}

// addLayer packs what write writes. One encoder and no parallel blocks: the bytes must
// not depend on the number of cores. Which files are in it is noted on the way.
func (l layout) addLayer(write func(*tar.Writer) error) (layer, error) {
	var out layer
	plain := sha256.New()
	again, tee := io.Pipe()
	var files []FileInfo
	var listErr error
	var listing sync.WaitGroup
	listing.Go(func() {
		files, listErr = listFiles(context.Background(), tar.NewReader(again))
		_, _ = io.Copy(io.Discard, again) // else the writer would wait
	})
	descriptor, err := l.addBlob(func(w io.Writer) error {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
		if err != nil {
			return err
		}
		t := tar.NewWriter(io.MultiWriter(z, plain, tee))
		return errors.Join(write(t), t.Close(), z.Close())
	})
	_ = tee.CloseWithError(err)
	listing.Wait()
	if err != nil {
		return out, err
	}
	out.diffID, out.digest, out.size = sum(plain), descriptor.Digest, descriptor.Size
	if listErr != nil {
		return out, listErr
	}
	return out, l.noteFiles(LayerInfo{Digest: out.digest.String(), Size: out.size, Files: files})
}

func (l layout) addJSON(mediaType types.MediaType, value any) (v1.Descriptor, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d, err := l.addBlob(func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	d.MediaType = mediaType
	return d, err
}

func sum(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// exists reports whether a file is there with the given size.
func exists(path string, size int64) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == size && !errors.Is(err, fs.ErrNotExist)
}
