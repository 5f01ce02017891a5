package sign

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/orrery-dev/orrery/internal/mirror"
	"github.com/orrery-dev/orrery/internal/oci"
)

// manifestTypes is what is asked for.
var manifestTypes = strings.Join(oci.ManifestTypes, ", ")

// maxBundles that refer to one image are read.
const maxBundles = oci.MaxReferrers

// Registry has the images that are signed and verified: an environment's [mirror.Mirror], or
// one that a person names.
type Registry interface {
	// String is how people call it.
	String() string
	// Repository is the URL of what it has under a name, and a client that may read that and,
	// with write, change it.
	Repository(ctx context.Context, name string, write bool) (url string, client *http.Client, err error)
}

// repository is one image name in a registry. All that is read by digest is hashed. A library
// would ask the registry who it is before each request; the check of a whole platform has 300 ms.
type repository struct {
	base   string // SCHEME://HOST/v2/NAME
	client *http.Client
	where  string // as an error calls the registry
	mirror bool   // of an environment's own
}

func openRepository(ctx context.Context, in Registry, name string, write bool) (repository, error) {
	base, client, err := in.Repository(ctx, name, write)
	r := repository{base: base, client: client, where: in.String()}
	if _, r.mirror = in.(mirror.Mirror); r.mirror {
		r.where = "the mirror"
	}
	return r, err
}

// statusError is an answer that was not the wanted one.
type statusError struct {
	code int
	what string
}

func (e *statusError) Error() string { return e.what }

// Is tells what is not there.
func (e *statusError) Is(target error) bool {
	return target == oci.ErrNotFound && e.code == http.StatusNotFound
}

func absent(err error) bool { return errors.Is(err, oci.ErrNotFound) }

func (r repository) do(ctx context.Context, method, url string, body []byte, header map[string]string, want ...int) (*http.Response, error) {
	if strings.HasPrefix(url, "/") {
		url = r.base + url
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(want, resp.StatusCode) {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		_ = resp.Body.Close()
		return nil, &statusError{resp.StatusCode, fmt.Sprintf("%s %s: %s %s", method, url, resp.Status, bytes.TrimSpace(text))}
	}
	return resp, nil
}

func (r repository) read(ctx context.Context, path, accept string, limit int64) ([]byte, error) {
	resp, err := r.do(ctx, http.MethodGet, path, nil, map[string]string{"Accept": accept}, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("GET %s%s: more than %d bytes", r.base, path, limit)
	}
	return data, err
}

func digestOf(data []byte) string { return oci.Digest(data).String() }

// manifest reads a manifest by digest, and hashes it. A wrong hash is [ErrSwapped].
func (r repository) manifest(ctx context.Context, digest string) ([]byte, error) {
	data, err := r.read(ctx, "/manifests/"+digest, manifestTypes, oci.MaxManifest)
	if err == nil && digestOf(data) != digest {
		err = mistake(ErrSwapped, "the registry has another manifest under %s: one with %s", digest, digestOf(data))
	}
	return data, err
}

// blob reads a small blob, and hashes it. A wrong hash is [ErrTampered].
func (r repository) blob(ctx context.Context, digest string) ([]byte, error) {
	data, err := r.read(ctx, "/blobs/"+digest, "*/*", oci.MaxDocument)
	if err == nil && digestOf(data) != digest {
		err = mistake(ErrTampered, "blob %s has the bytes of %s", digest, digestOf(data))
	}
	return data, err
}

// checkBlob hashes a blob of any size without keeping it.
func (r repository) checkBlob(ctx context.Context, d v1.Descriptor) error {
	resp, err := r.do(ctx, http.MethodGet, "/blobs/"+d.Digest.String(), nil, nil, http.StatusOK)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, resp.Body); err != nil {
		return fmt.Errorf("read blob %s: %w", d.Digest, err)
	}
	if have := fmt.Sprintf("sha256:%x", sum.Sum(nil)); have != d.Digest.String() {
		return mistake(ErrTampered, "blob %s has the bytes of %s", d.Digest, have)
	}
	return nil
}

// tagged is the digest that a tag points at; empty when there is no such tag.
func (r repository) tagged(ctx context.Context, tag string) (string, error) {
	data, err := r.read(ctx, "/manifests/"+tag, manifestTypes, oci.MaxManifest)
	if absent(err) {
		return "", nil
	}
	return digestOf(data), err
}

// referrers lists what refers to a manifest; see [oci.Referrers].
func (r repository) referrers(ctx context.Context, digest string) (list []v1.Descriptor, byTag bool, err error) {
	list, byTag, err = oci.Referrers(ctx, digest, func(ctx context.Context, path string) ([]byte, error) {
		data, err := r.read(ctx, "/"+path, string(types.OCIImageIndex), oci.MaxManifest)
		if !r.mirror && strings.HasPrefix(path, "referrers/") {
			err = lacksAPI(data, err)
		}
		return data, err
	})
	if errors.Is(err, oci.ErrInvalid) {
		return nil, byTag, mistake(ErrTampered, "%w", err)
	}
	return list, byTag, err
}

// lacksAPI: registries refuse a request that they do not know as they like, and what stands
// before one may answer with a page for people. Who may not read at all is told so of the tag.
func lacksAPI(data []byte, err error) error {
	answer, ok := errors.AsType[*statusError](err)
	switch {
	case ok && answer.code/100 == 4 && answer.code != http.StatusTooManyRequests:
		return fmt.Errorf("%w: %w", oci.ErrNotFound, err)
	case err == nil && !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")):
		return oci.ErrNotFound
	}
	return err
}

// putBlob uploads a blob, unless it is there.
func (r repository) putBlob(ctx context.Context, data []byte) (digest string, err error) {
	digest = digestOf(data)
	if resp, err := r.do(ctx, http.MethodHead, "/blobs/"+digest, nil, nil, http.StatusOK); err == nil {
		return digest, resp.Body.Close()
	} else if !absent(err) {
		return "", err
	}
	resp, err := r.do(ctx, http.MethodPost, "/blobs/uploads/", nil, nil, http.StatusAccepted)
	if err != nil {
		return "", err
	}
	_ = resp.Body.Close()
	at, err := resp.Location()
	if err != nil {
		return "", fmt.Errorf("POST %s/blobs/uploads/: the registry does not say where to: %w", r.base, err)
	}
	query := at.Query()
	query.Set("digest", digest)
	at.RawQuery = query.Encode()
	resp, err = r.do(ctx, http.MethodPut, at.String(), data, map[string]string{"Content-Type": "application/octet-stream"}, http.StatusCreated)
	if err != nil {
		return "", err
	}
	return digest, resp.Body.Close()
}

func (r repository) putManifest(ctx context.Context, ref string, mediaType types.MediaType, data []byte) error {
	resp, err := r.do(ctx, http.MethodPut, "/manifests/"+url.PathEscape(ref), data,
		map[string]string{"Content-Type": string(mediaType)}, http.StatusCreated, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// deleteManifest removes a manifest. A registry of a person's may keep what it has: many do, or
// ask for a right of its own.
func (r repository) deleteManifest(ctx context.Context, digest string) error {
	resp, err := r.do(ctx, http.MethodDelete, "/manifests/"+digest, nil, nil, http.StatusAccepted, http.StatusOK, http.StatusNotFound)
	if answer, ok := errors.AsType[*statusError](err); ok && !r.mirror && answer.code/100 == 4 {
		return nil
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
