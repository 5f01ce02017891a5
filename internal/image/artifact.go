package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/orrery-dev/orrery/internal/oci"
)

// Artifact names a file that a registry keeps for others: a program, an archive. Its tag is its
// content's digest, so that who knows what the file must be can ask for it, and needs to trust
// nobody.
type Artifact struct {
	Repository string // HOST/PATH
	SHA256     string // of the file, in hexadecimal
}

// String is the reference of the artifact, by tag.
func (a Artifact) String() string { return a.Repository + ":sha256-" + a.SHA256 }

// Types of an artifact, as OCI's image manifest names them.
const (
	artifactType = "application/vnd.orrery.file.v1"
	contentType  = "application/vnd.orrery.file.v1+zstd"
)

// MaxArtifact bounds what a file may be unpacked to, in bytes.
const MaxArtifact = 4 << 30

// PushArtifact sends the file at path, compressed. What is there already is not sent again: sent is
// false then. A file that is not a's is an error.
func (r *Registries) PushArtifact(ctx context.Context, a Artifact, path string) (sent bool, err error) {
	fail := func(err error) (bool, error) { return false, fmt.Errorf("push %s: %w", a.String(), err) }
	tag, err := name.NewTag(a.String(), name.StrictValidation)
	if err != nil {
		return fail(err)
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithJobs(4), remote.WithAuthFromKeychain(r.opts.Keychain),
		remote.WithTransport(tlsOnly{r.transport})}
	if there, err := held(tag, options...); err != nil || there != (v1.Hash{}) {
		if err != nil {
			return fail(err)
		}
		return false, nil
	}
	dir, err := os.MkdirTemp(r.opts.CacheDir, ".artifact-*")
	if err != nil {
		return fail(fmt.Errorf("%w: %w", errHere, err))
	}
	defer os.RemoveAll(dir)
	l := layout{dir: dir}
	s, err := l.pack(a, path)
	if err != nil {
		return fail(err)
	}
	if err := s.write(tag, options); err != nil {
		return fail(err)
	}
	return true, nil
}

// pack puts an artifact into an empty layout.
func (l layout) pack(a Artifact, path string) (stored, error) {
	m := oci.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: artifactType}
	add := func(typ types.MediaType, write func(io.Writer) error) (v1.Descriptor, error) {
		d, err := l.addBlob(write)
		d.MediaType = typ
		return d, err
	}
	config, err := add(types.OCIEmptyJSON, func(w io.Writer) error {
		_, err := io.WriteString(w, oci.EmptyContent)
		return err
	})
	if err != nil {
		return stored{}, err
	}
	content, err := add(contentType, func(w io.Writer) error { return compress(w, path, a.SHA256) })
	if err != nil {
		return stored{}, err
	}
	m.Config, m.Layers = &config, []v1.Descriptor{content}
	raw, err := json.Marshal(m)
	return stored{l, raw, m}, err
}

// compress writes the file at path, which must have that digest.
func compress(w io.Writer, path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := zstd.NewWriter(w)
	if err != nil {
		return err
	}
	digest := sha256.New()
	if _, err = io.Copy(io.MultiWriter(z, digest), f); err == nil {
		err = z.Close()
	}
	if got := hex.EncodeToString(digest.Sum(nil)); err == nil && got != want {
		err = fmt.Errorf("%s is sha256:%s", path, got)
	}
	return err
}

// FetchArtifact writes the file to path. It is unpacked while it arrives and held to its digest:
// [ErrWrongContent] and [ErrNotReachable] as with images. report is told compressed bytes.
func (r *Registries) FetchArtifact(ctx context.Context, a Artifact, path string, report func(done, total float64)) error {
	tag, err := name.NewTag(a.String(), name.StrictValidation)
	if err != nil {
		return notReachable(a.String(), err)
	}
	f := &fetch{Registries: r, repo: tag.Context(), report: report}
	err = f.artifact(ctx, tag.TagStr(), a.SHA256, path)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrWrongContent), errors.Is(err, errHere):
		return fmt.Errorf("%s: %w", a.String(), err)
	default:
		return notReachable(a.String(), err)
	}
}

func (f *fetch) artifact(ctx context.Context, tag, want, path string) error {
	var data []byte
	err := f.retry(ctx, func() (err error) {
		data, err = f.read(ctx, "manifests/"+tag, oci.MaxManifest, string(types.OCIManifestSchema1))
		return err
	})
	if err != nil {
		return err
	}
	m, err := parseManifest(data)
	if err != nil {
		return err
	}
	if m.ArtifactType != artifactType || len(m.Layers) != 1 || m.Layers[0].MediaType != contentType {
		return fmt.Errorf("%w: no %s, but %q", ErrWrongContent, artifactType, m.ArtifactType)
	}
	f.traffic.total = float64(m.Layers[0].Size)
	return f.retry(ctx, func() error { return f.unpack(ctx, m.Layers[0], want, path) })
}

// read reads at most so many bytes.
func (f *fetch) read(ctx context.Context, path string, most int64, accept ...string) ([]byte, error) {
	resp, err := f.request(ctx, http.MethodGet, f.repo, path, accept...)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%w: %s has more than %d bytes", ErrWrongContent, path, most)
	}
	return data, err
}

// unpack has the file that blob d is the compressed form of. Only the file's own digest counts.
func (f *fetch) unpack(ctx context.Context, d v1.Descriptor, want, path string) error {
	resp, err := f.request(ctx, http.MethodGet, f.repo, "blobs/"+d.Digest.String())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("%w: %w", errHere, err)
	}
	defer out.Close()
	var failed error // of the registry, not of our disk
	counted := 0.0
	body := upstream{io.LimitReader(resp.Body, d.Size), &failed, func(n int) {
		counted += float64(n)
		f.traffic.add(float64(n), f.report)
	}}
	z, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return err
	}
	defer z.Close()
	digest := sha256.New()
	to := &noting{w: out}
	_, err = io.Copy(io.MultiWriter(to, digest), io.LimitReader(z, MaxArtifact))
	if got := hex.EncodeToString(digest.Sum(nil)); err == nil && got != want {
		err = fmt.Errorf("%w: what came unpacks to sha256:%s", ErrWrongContent, got)
	}
	switch {
	case err == nil:
		return out.Close()
	case failed != nil: // the connection; it may go on
		err = failed
	case to.err != nil:
		err = fmt.Errorf("%w: %w", errHere, to.err)
	case !errors.Is(err, ErrWrongContent):
		err = fmt.Errorf("%w: %w", ErrWrongContent, err) // what cannot be unpacked
	}
	f.traffic.add(-counted, f.report)
	return err
}

// noting keeps the error of writing.
type noting struct {
	w   io.Writer
	err error
}

func (c *noting) Write(p []byte) (n int, err error) {
	n, err = c.w.Write(p)
	if err != nil {
		c.err = err
	}
	return n, err
}

// ProbeArtifacts asks which of them are there, all at once; nil where one is. The map has an entry
// for each.
func (r *Registries) ProbeArtifacts(ctx context.Context, artifacts []Artifact) map[Artifact]error {
	references := make([]string, len(artifacts))
	for i, a := range artifacts {
		references[i] = a.String()
	}
	found := r.probeAll(ctx, references, func(ctx context.Context, ref string) error {
		tag, err := name.NewTag(ref, name.StrictValidation)
		if err != nil {
			return notReachable(ref, err)
		}
		resp, err := r.request(ctx, http.MethodHead, tag.Context(), "manifests/"+tag.TagStr(), string(types.OCIManifestSchema1))
		if err != nil {
			return notReachable(ref, err)
		}
		return resp.Body.Close()
	})
	out := map[Artifact]error{}
	for i, a := range artifacts {
		out[a] = found[references[i]]
	}
	return out
}
