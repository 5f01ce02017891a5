package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"

	"github.com/orrery-dev/orrery/internal/build"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/oci"
)

// Archive is somebody's image in a file or folder.
type Archive struct {
	// Name and Tag as the archive has them, without a registry; empty when it has none.
	Name, Tag string

	img   v1.Image
	clean func()
}

// Close removes what was unpacked.
func (a *Archive) Close() { a.clean() }

// OpenArchive opens an image: an OCI layout, as a folder or a tarball, or what `docker
// save` writes; tarballs may be compressed with gzip or zstd. Of an image for several
// platforms it takes the one for this machine. An archive with more than limit bytes in it,
// as far as it is not compressed once more, is a [*TooLargeError]; a small file can hold a
// lot. 0 is no limit. The caller closes it.
func OpenArchive(ctx context.Context, file string, limit int64) (*Archive, error) {
	fail := func(err error) (*Archive, error) { return nil, fmt.Errorf("open image %s: %w", file, err) }
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		a, err := openLayoutArchive(file, limit)
		if err != nil {
			return fail(err)
		}
		return a, nil
	}
	kind, err := archiveKind(ctx, file, limit)
	if err != nil {
		return fail(err)
	}
	var a *Archive
	if kind == kindDocker {
		if a, err = openDockerArchive(file); err != nil {
			return fail(err)
		}
	} else {
		dir, err := os.MkdirTemp("", "orrery-load-")
		if err != nil {
			return nil, err
		}
		clean := func() { os.RemoveAll(dir) }
		if err := unpackLayout(ctx, file, dir, limit); err != nil {
			clean()
			return fail(err)
		}
		if a, err = openLayoutArchive(dir, limit); err != nil {
			clean()
			return fail(err)
		}
		a.clean = clean
	}
	return a, nil
}

// Push uploads the image as NAME:TAG to a mirror and returns the reference to use in manifests.
func (a *Archive) Push(ctx context.Context, to mirror.Mirror, repository, tag string) (string, error) {
	ref, err := name.NewTag(to.Address+"/"+repository+":"+tag, name.Insecure, name.StrictValidation)
	if err != nil {
		return "", err
	}
	digest, err := a.img.Digest()
	if err != nil {
		return "", err
	}
	if err := remote.Write(ref, a.img, remote.WithContext(ctx), remote.WithAuth(to), remote.WithJobs(4)); err != nil {
		return "", fmt.Errorf("push %s:%s to %s: %w", repository, tag, to, err)
	}
	return mirror.Host + "/" + repository + ":" + tag + "@" + digest.String(), nil
}

type kind int

const (
	kindLayout kind = iota + 1
	kindDocker
)

var errNotAnImage = errors.New("it is neither an OCI layout nor what `docker save` writes")

// archiveKind looks for the file that tells. An archive that is both is taken as OCI,
// which has digests to check.
func archiveKind(ctx context.Context, file string, limit int64) (kind, error) {
	found := kind(0)
	err := eachEntry(ctx, file, limit, func(h *tar.Header, _ io.Reader) error {
		switch path.Clean(h.Name) {
		case oci.LayoutFile:
			found = kindLayout
			return errStop
		case "manifest.json":
			found = kindDocker
		}
		return nil
	})
	if err == nil && found == 0 {
		err = errNotAnImage
	}
	return found, err
}

var errStop = errors.New("stop")

// TooLargeError says that an archive holds more than was allowed.
type TooLargeError struct{ Size, Limit int64 } // bytes; Size is what was seen so far

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("it holds at least %d bytes; at most %d are allowed", e.Size, e.Limit)
}

// eachEntry walks a tarball, until visit returns errStop, or more than limit bytes are to
// be unpacked.
func eachEntry(ctx context.Context, file string, limit int64, visit func(*tar.Header, io.Reader) error) error {
	r, err := openMaybeCompressed(file)
	if err != nil {
		return err
	}
	defer r.Close()
	t := tar.NewReader(r)
	var size int64
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if size += h.Size; limit > 0 && size > limit {
			return &TooLargeError{Size: size, Limit: limit}
		}
		if err := visit(h, t); err != nil {
			if errors.Is(err, errStop) {
				return nil
			}
			return err
		}
	}
}

type readCloser struct {
	io.Reader
	close func() error
}

func (r readCloser) Close() error { return r.close() }

func openMaybeCompressed(file string) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	b := bufio.NewReaderSize(f, 1<<16)
	magic, _ := b.Peek(4)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			f.Close()
			return nil, err
		}
		return readCloser{z, f.Close}, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1))
		if err != nil {
			f.Close()
			return nil, err
		}
		return readCloser{z, func() error { z.Close(); return f.Close() }}, nil
	}
	return readCloser{b, f.Close}, nil
}

// layoutFile are the only files of a layout that are unpacked, and so the only paths
// that are ever written.
var layoutFile = regexp.MustCompile(`^(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})$`)

func unpackLayout(ctx context.Context, file, dir string, limit int64) error {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return err
	}
	return eachEntry(ctx, file, limit, func(h *tar.Header, r io.Reader) error {
		clean := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg || !layoutFile.MatchString(clean) {
			return nil
		}
		f, err := os.OpenFile(filepath.Join(dir, filepath.FromSlash(clean)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	})
}

// openLayoutArchive opens the one image for this machine in a layout.
func openLayoutArchive(dir string, limit int64) (*Archive, error) {
	l := layout{dir: dir}
	index, err := oci.Layout(dir).Index()
	switch {
	case errors.Is(err, oci.ErrInvalid):
		return nil, err
	case err != nil:
		return nil, errNotAnImage
	}
	found, named, err := l.choose(index.Manifests, "", 0)
	if err != nil {
		return nil, err
	}
	img, err := ggcrlayout.Path(dir).Image(found)
	if err != nil {
		return nil, err
	}
	if err := checkSize(img, limit); err != nil {
		return nil, err
	}
	if err := checkDigests(l, found, img); err != nil {
		return nil, err
	}
	if err := checkPlatform(img); err != nil {
		return nil, err
	}
	a := &Archive{img: img, clean: func() {}}
	a.Name, a.Tag = splitName(named)
	return a, nil
}

// choose finds the image for this machine, also below nested indexes.
func (l layout) choose(manifests []v1.Descriptor, named string, depth int) (v1.Hash, string, error) {
	type candidate struct {
		v1.Hash
		name string
	}
	var all []candidate
	var offered []string
	for _, d := range manifests {
		name := named
		for _, key := range []string{"io.containerd.image.name", oci.RefName} {
			if n := d.Annotations[key]; n != "" {
				name = n
				break
			}
		}
		if !oci.Suits(d, build.Platform()) {
			offered = append(offered, d.Platform.OS+"/"+d.Platform.Architecture)
			continue
		}
		switch {
		case d.MediaType.IsIndex():
			if depth >= oci.MaxDepth {
				return v1.Hash{}, "", errors.New("indexes are nested too deeply")
			}
			nested, _, err := oci.Layout(l.dir).Manifest(d.Digest, oci.MaxLayers)
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("the index names %s, which is not in the archive", d.Digest)
			}
			if err != nil {
				return v1.Hash{}, "", err
			}
			h, n, err := l.choose(nested.Manifests, name, depth+1)
			if err != nil {
				return v1.Hash{}, "", err
			}
			all = append(all, candidate{h, n})
		default:
			all = append(all, candidate{d.Digest, name})
		}
	}
	switch {
	case len(all) == 1:
		return all[0].Hash, all[0].name, nil
	case len(all) == 0 && len(offered) > 0:
		return v1.Hash{}, "", fmt.Errorf("it has no image for linux/%s, only for %s", runtime.GOARCH, strings.Join(offered, ", "))
	case len(all) == 0:
		return v1.Hash{}, "", errors.New("it holds no image")
	}
	return v1.Hash{}, "", fmt.Errorf("it holds %d images; load a file with one", len(all))
}

// checkSize adds up what the manifest says, before anything is hashed.
func checkSize(img v1.Image, limit int64) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	size := m.Config.Size
	for _, layer := range m.Layers {
		size += layer.Size
	}
	if limit > 0 && size > limit {
		return &TooLargeError{Size: size, Limit: limit}
	}
	return nil
}

// checkDigests hashes every blob: the archive is foreign.
func checkDigests(l layout, digest v1.Hash, img v1.Image) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	blobs := []v1.Hash{digest, m.Config.Digest}
	for _, layer := range m.Layers {
		blobs = append(blobs, layer.Digest)
	}
	for _, d := range blobs {
		if d.Algorithm != "sha256" || len(d.Hex) != 64 || strings.Trim(d.Hex, "0123456789abcdef") != "" {
			return fmt.Errorf("%q is no SHA-256 digest", d)
		}
		sum, err := disk.SHA256(l.blob(d))
		if err != nil {
			return fmt.Errorf("blob %s is not in the archive", d)
		}
		if sum != d.Hex {
			return fmt.Errorf("blob %s is damaged: its content has the digest sha256:%s", d, sum)
		}
	}
	return nil
}

func openDockerArchive(file string) (*Archive, error) {
	opener := func() (io.ReadCloser, error) { return openMaybeCompressed(file) }
	m, err := tarball.LoadManifest(opener)
	if err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	if len(m) != 1 {
		return nil, fmt.Errorf("it holds %d images; save one", len(m))
	}
	img, err := tarball.Image(opener, nil)
	if err != nil {
		return nil, err
	}
	if err := checkPlatform(img); err != nil {
		return nil, err
	}
	a := &Archive{img: img, clean: func() {}}
	if len(m[0].RepoTags) > 0 {
		a.Name, a.Tag = splitName(m[0].RepoTags[0])
	}
	return a, nil
}

func checkPlatform(img v1.Image) error {
	c, err := img.ConfigFile()
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if c.OS != "linux" || c.Architecture != runtime.GOARCH {
		return fmt.Errorf("it is for %s/%s; these nodes are linux/%s", c.OS, c.Architecture, runtime.GOARCH)
	}
	return nil
}

// splitName takes registry and Docker's implied folder off a name: the mirror is its
// registry now.
func splitName(s string) (repository, tag string) {
	t, err := name.NewTag(s, name.WeakValidation)
	if err != nil || !strings.ContainsAny(s, ":/") { // a bare word is a tag, in layouts
		return "", ""
	}
	return strings.TrimPrefix(t.RepositoryStr(), "library/"), t.TagStr()
}
