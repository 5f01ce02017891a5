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
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"

	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/oci"
)

// Archive is what a file or folder of somebody's has of images for this machine: one at least.
type Archive struct {
	Images []Archived

	clean func()
}

// Archived is one image of an archive.
type Archived struct {
	// Name and Tag as the archive has them, without a registry; empty when it has none.
	Name, Tag string

	img v1.Image
}

// Close removes what was unpacked.
func (a *Archive) Close() { a.clean() }

// OpenArchive opens images: an OCI layout, as a folder or a tarball, or what `docker
// save` writes; tarballs may be compressed with gzip or zstd. Of an image for several
// platforms it takes the one for this machine, and leaves attestations out. An archive
// with more than limit bytes in it, as far as it is not compressed once more, is a
// [*TooLargeError]; a small file can hold a lot. 0 is no limit. The caller closes it, and says in
// errors what the file is: it may be a copy of something else.
func OpenArchive(ctx context.Context, file string, limit int64) (*Archive, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		a, err := openLayoutArchive(file, limit)
		if err != nil {
			return nil, err
		}
		return a, nil
	}
	kind, err := archiveKind(ctx, file, limit)
	if err != nil {
		return nil, err
	}
	var a *Archive
	if kind == kindDocker {
		if a, err = openDockerArchive(file); err != nil {
			return nil, err
		}
	} else {
		dir, err := os.MkdirTemp("", "orrery-load-")
		if err != nil {
			return nil, err
		}
		clean := func() { os.RemoveAll(dir) }
		if err := unpackLayout(ctx, file, dir, limit); err != nil {
			clean()
			return nil, err
		}
		if a, err = openLayoutArchive(dir, limit); err != nil {
			clean()
			return nil, err
		}
		a.clean = clean
	}
	return a, nil
}

// Loaded is an image that was put into a mirror.
type Loaded struct {
	Reference string `json:"reference"` // for manifests, with the digest
	// Moved is the digest that the tag named before, when that was another.
	Moved string `json:"moved,omitempty"`
}

// Push uploads the image as NAME:TAG to a mirror.
func (a Archived) Push(ctx context.Context, to mirror.Mirror, repository, tag string) (Loaded, error) {
	fail := func(err error) (Loaded, error) {
		return Loaded{}, fmt.Errorf("push %s:%s to %s: %w", repository, tag, to, err)
	}
	ref, err := name.NewTag(to.Address+"/"+repository+":"+tag, name.Insecure, name.StrictValidation)
	if err != nil {
		return Loaded{}, err
	}
	digest, err := a.img.Digest()
	if err != nil {
		return fail(err)
	}
	pushed := Loaded{Reference: mirror.Host + "/" + repository + ":" + tag + "@" + digest.String()}
	// That there is none, or that the mirror does not answer, the upload finds out.
	if had, err := remote.Head(ref, remote.WithContext(ctx), remote.WithAuth(to)); err == nil && had.Digest != digest {
		pushed.Moved = had.Digest.String()
	}
	if err := remote.Write(ref, a.img, remote.WithContext(ctx), remote.WithAuth(to), remote.WithJobs(4)); err != nil {
		return fail(err)
	}
	return pushed, nil
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
	switch {
	case errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("neither a folder nor a tar archive, or not all of one: %w", err)
	case err == nil && found == 0:
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
	magic, _ := b.Peek(6)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			f.Close()
			return nil, err
		}
		return readCloser{z, f.Close}, nil
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		f.Close()
		return nil, errors.New("it is compressed with xz, which is not read here: unpack it first with xz -d")
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
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

func openDockerArchive(file string) (*Archive, error) {
	opener := func() (io.ReadCloser, error) { return openMaybeCompressed(file) }
	m, err := tarball.LoadManifest(opener)
	if err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	a := &Archive{clean: func() {}}
	add := func(tag *name.Tag, one Archived) (err error) {
		if one.img, err = tarball.Image(opener, tag); err != nil {
			return err
		}
		a.Images = append(a.Images, one)
		return checkPlatform(one.img)
	}
	for _, d := range m {
		if len(d.RepoTags) == 0 {
			if len(m) > 1 {
				return nil, fmt.Errorf("it holds %d images, and not all have a name: save one, or name them", len(m))
			}
			if err := add(nil, Archived{}); err != nil {
				return nil, err
			}
		}
		for _, named := range d.RepoTags {
			tag, err := name.NewTag(named, name.WeakValidation)
			if err != nil {
				return nil, err
			}
			var one Archived
			one.Name, one.Tag = splitName(named)
			if err := add(&tag, one); err != nil {
				return nil, err
			}
		}
	}
	if len(a.Images) == 0 {
		return nil, noImage(nil)
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
