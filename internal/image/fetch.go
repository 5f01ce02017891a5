package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/filelock"
	"github.com/orrery-dev/orrery/internal/oci"
)

// Pull is an image to be had from a registry.
type Pull struct {
	Name, Version string // as the mirror is to know it
	Reference     string // HOST/PATH[:TAG]@DIGEST; the digest is of an image, or of an index of several platforms
}

func (p Pull) digest() (name.Digest, error) {
	d, err := name.NewDigest(p.Reference, name.StrictValidation)
	if err != nil {
		return d, notReachable(p.Reference, err)
	}
	return d, nil
}

// Cached returns what [Registries.Fetch] would return at once.
func (r *Registries) Cached(p Pull) (Built, bool) {
	digest, err := p.digest()
	if err != nil {
		return Built{}, false
	}
	built, ok := r.layout.lookup(r.key(digest))
	// One digest may be wanted under two names.
	built.Name, built.Version = p.Name, p.Version
	return built, ok
}

func (r *Registries) key(d name.Digest) string { return strings.TrimPrefix(d.DigestStr(), "sha256:") }

// Fetch has the image in the layout: of an index, what this platform needs of it, and
// whatever is attached to the image (signatures and documents). Blobs are streamed to the
// disk and hashed on the way; whole ones stay when a pull is interrupted. report is told
// bytes.
func (r *Registries) Fetch(ctx context.Context, p Pull, report func(done, total float64)) (Built, error) {
	digest, err := p.digest()
	if err != nil {
		return Built{}, err
	}
	if built, ok := r.Cached(p); ok {
		return built, nil
	}
	if err := os.MkdirAll(r.layout.dir, 0o755); err != nil {
		return Built{}, fmt.Errorf("%w: %w", errHere, err)
	}
	unlock, err := r.layout.lock(ctx, filelock.Shared) // against prune
	if err != nil {
		return Built{}, err
	}
	f := &fetch{Registries: r, repo: digest.Context(), report: report}
	content, err := f.image(ctx, digest.DigestStr())
	unlock()
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return Built{}, context.Cause(ctx)
	case errors.Is(err, ErrWrongContent), errors.Is(err, errHere):
		return Built{}, fmt.Errorf("image %s: %w", p.Reference, err)
	default:
		return Built{}, notReachable(p.Reference, err)
	}
	built := Built{Name: p.Name, Version: p.Version, Digest: digest.DigestStr(), Layout: r.layout.dir}
	for _, b := range content.blobs {
		built.Size += b.Size
	}
	if unlock, err = r.layout.lock(ctx, filelock.Exclusive); err != nil {
		return Built{}, err
	}
	defer unlock()
	return built, r.layout.keep(r.key(digest), built, content)
}

// errHere marks what is wrong with this machine, not with the registry.
var errHere = errors.New("write to the image store")

// fetch is one pull.
type fetch struct {
	*Registries
	repo    name.Repository
	report  func(done, total float64)
	traffic traffic
}

// content is what a pulled image consists of.
type content struct {
	top       v1.Descriptor
	blobs     []blobSize // the top comes first
	referrers []v1.Descriptor
}

func (f *fetch) image(ctx context.Context, digest string) (content, error) {
	var c content
	data, err := f.manifest(ctx, digest)
	if err != nil {
		return c, err
	}
	t, err := parseManifest(data)
	if err != nil {
		return c, err
	}
	add := func(digest string, data []byte) error {
		h, err := v1.NewHash(digest)
		if err != nil {
			return err
		}
		c.blobs = append(c.blobs, blobSize{h, int64(len(data))})
		return f.put(h, data)
	}
	if err := add(digest, data); err != nil {
		return c, err
	}
	c.top = v1.Descriptor{MediaType: t.Type(), Digest: c.blobs[0].Digest, Size: int64(len(data))}
	if t.IsIndex() {
		child, err := t.Choose("linux/" + f.arch)
		if err != nil {
			return c, err
		}
		if data, err = f.manifest(ctx, child.Digest.String()); err != nil {
			return c, err
		}
		if t, err = parseManifest(data); err != nil {
			return c, err
		}
		if t.IsIndex() {
			return c, fmt.Errorf("%w: an index within an index", ErrWrongContent)
		}
		if err := add(child.Digest.String(), data); err != nil {
			return c, err
		}
	}
	for _, d := range t.Blobs() {
		f.traffic.total += float64(d.Size)
		c.blobs = append(c.blobs, blobSize{d.Digest, d.Size})
	}
	if err := f.blobs(ctx, t.Blobs(), oci.MaxBlob); err != nil {
		return c, err
	}
	if err := f.referrers(ctx, digest, &c); err != nil {
		return c, err
	}
	return c, nil
}

// manifest reads a manifest by digest and holds it to that.
func (f *fetch) manifest(ctx context.Context, digest string) ([]byte, error) {
	var data []byte
	err := f.retry(ctx, func() error {
		resp, err := f.request(ctx, http.MethodGet, f.repo, "manifests/"+digest, oci.ManifestTypes...)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if data, err = io.ReadAll(io.LimitReader(resp.Body, oci.MaxManifest+1)); err != nil {
			return err
		}
		if len(data) > oci.MaxManifest {
			return fmt.Errorf("%w: manifest %s has more than %d bytes", ErrWrongContent, digest, oci.MaxManifest)
		}
		if got := fmt.Sprintf("sha256:%x", sha256.Sum256(data)); got != digest {
			return fmt.Errorf("%w: manifest %s came as %s", ErrWrongContent, digest, got)
		}
		return nil
	})
	return data, err
}

func (f *fetch) put(h v1.Hash, data []byte) error {
	if exists(f.layout.blob(h), int64(len(data))) {
		return nil
	}
	_, err := f.layout.addBlob(func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errHere, err)
	}
	return nil
}

// blobs downloads, a few at a time, what is not there yet.
func (f *fetch) blobs(ctx context.Context, parts []v1.Descriptor, most int64) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	seen := map[v1.Hash]bool{}
	for _, d := range parts {
		if seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		g.Go(func() error {
			if d.Size > most {
				return fmt.Errorf("%w: blob %s has %d bytes, more than %d", ErrWrongContent, d.Digest, d.Size, most)
			}
			if sum, err := disk.SHA256(f.layout.blob(d.Digest)); err == nil && sum == d.Digest.Hex {
				f.traffic.add(float64(d.Size), f.report)
				return nil
			}
			return f.retry(ctx, func() error { return f.blob(ctx, d) })
		})
	}
	return g.Wait()
}

func (f *fetch) blob(ctx context.Context, d v1.Descriptor) error {
	resp, err := f.request(ctx, http.MethodGet, f.repo, "blobs/"+d.Digest.String())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var failed error // of the registry, not of our disk
	hash := sha256.New()
	counted := 0.0
	err = f.layout.addNamed(d.Digest, func(w io.Writer) error {
		n, err := io.Copy(io.MultiWriter(w, hash), upstream{io.LimitReader(resp.Body, d.Size+1), &failed, func(n int) {
			counted += float64(n)
			f.traffic.add(float64(n), f.report)
		}})
		if err != nil {
			return err
		}
		if got := hex.EncodeToString(hash.Sum(nil)); n != d.Size || got != d.Digest.Hex {
			failed = fmt.Errorf("%w: blob %s came as sha256:%s with %d bytes, not %d", ErrWrongContent, d.Digest, got, n, d.Size)
			return failed
		}
		return nil
	})
	if err != nil {
		f.traffic.add(-counted, f.report)
	}
	switch {
	case err == nil:
		return nil
	case failed != nil:
		return failed
	default:
		return fmt.Errorf("%w: %w", errHere, err)
	}
}

// upstream tells the errors of reading from those of writing.
type upstream struct {
	io.Reader
	failed *error
	read   func(int)
}

func (s upstream) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.read(n)
	if err != nil && err != io.EOF {
		*s.failed = err
	}
	return n, err
}

// referrers pulls what is attached to the image.
func (f *fetch) referrers(ctx context.Context, digest string, c *content) error {
	list, _, err := oci.Referrers(ctx, digest, f.list)
	// A list that cannot be read is no list; what must be attached is looked for later.
	if err != nil && !errors.Is(err, oci.ErrInvalid) {
		return err
	}
	for _, d := range list[:min(len(list), oci.MaxReferrers)] {
		data, err := f.manifest(ctx, d.Digest.String())
		if err != nil {
			return err
		}
		attached, err := parseManifest(data)
		if err != nil || attached.IsIndex() {
			continue
		}
		if err := f.blobs(ctx, attached.Blobs(), oci.MaxDocument); err != nil {
			return err
		}
		if err := f.put(d.Digest, data); err != nil {
			return err
		}
		c.referrers = append(c.referrers, d)
		c.blobs = append(c.blobs, blobSize{d.Digest, int64(len(data))})
		for _, part := range attached.Blobs() {
			c.blobs = append(c.blobs, blobSize{part.Digest, part.Size})
		}
	}
	return nil
}

// list reads a list of referrers. Whatever is none is not found: what stands between may
// answer with a page for people.
func (f *fetch) list(ctx context.Context, path string) ([]byte, error) {
	resp, err := f.request(ctx, http.MethodGet, f.repo, path, string(types.OCIImageIndex))
	if answer, ok := errors.AsType[*transport.Error](err); ok && answer.StatusCode/100 == 4 {
		return nil, fmt.Errorf("%w: %w", oci.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, oci.MaxManifest+1))
	if err == nil && (len(data) > oci.MaxManifest || !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{"))) {
		err = oci.ErrNotFound
	}
	return data, err
}

// retry goes on after what passes: a server in trouble, a connection that broke. One that
// stalls is not tried again, it has cost enough.
func (f *fetch) retry(ctx context.Context, do func() error) error {
	const most = 3
	for try := 1; ; try++ {
		err := do()
		if err == nil || try == most || ctx.Err() != nil || !passing(err) {
			return err
		}
		f.opts.Log.InfoContext(ctx, "a pull is tried again", "repository", f.repo.Name(), "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(try) * 500 * time.Millisecond):
		}
	}
}

func passing(err error) bool {
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		return answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return false
	}
	_, op := errors.AsType[*net.OpError](err)
	return op || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// addNamed is addBlob of content whose digest write has held it to.
func (l layout) addNamed(want v1.Hash, write func(io.Writer) error) error {
	d, err := l.addBlob(write)
	if err == nil && d.Digest != want {
		err = fmt.Errorf("stored as %s, not as %s in %s", d.Digest, want, filepath.Base(l.dir))
	}
	return err
}

// parseManifest reads what a registry sent.
func parseManifest(data []byte) (oci.Manifest, error) {
	m, err := oci.Parse(data, oci.MaxLayers)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrWrongContent, err)
	}
	return m, err
}
