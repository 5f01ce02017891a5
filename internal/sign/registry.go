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

// repository is one image name in a registry that speaks plain HTTP on this machine: the
// mirror. All that is read by digest is hashed. A library would ask the registry who it is
// before each request; the check of a whole platform has 300 ms.
type repository struct {
	mirror mirror.Mirror
	base   string // http://HOST:PORT/v2/NAME
}

func openRepository(m mirror.Mirror, name string) repository {
	return repository{mirror: m, base: "http://" + m.Address + "/v2/" + name}
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

// client follows no redirection: the mirror has none, and it is on this machine.
var client = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true}, // no proxy
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

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
	if method != http.MethodGet && method != http.MethodHead { // reading needs no password
		if err := r.mirror.Authorize(req); err != nil {
			return nil, err
		}
	}
	resp, err := client.Do(req)
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
		return r.read(ctx, "/"+path, string(types.OCIImageIndex), oci.MaxManifest)
	})
	if errors.Is(err, oci.ErrInvalid) {
		return nil, byTag, mistake(ErrTampered, "%w", err)
	}
	return list, byTag, err
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
	resp, err := r.do(ctx, http.MethodPut, "/manifests/"+url.PathEscape(ref), data, map[string]string{"Content-Type": string(mediaType)}, http.StatusCreated, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (r repository) deleteManifest(ctx context.Context, digest string) error {
	resp, err := r.do(ctx, http.MethodDelete, "/manifests/"+digest, nil, nil, http.StatusAccepted, http.StatusOK, http.StatusNotFound)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
