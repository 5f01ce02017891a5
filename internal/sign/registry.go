package sign

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/orrery-dev/orrery/internal/mirror"
)

// Limits of what is read from a registry, in bytes and in bundles that refer to one image.
const (
	maxManifest = 4 << 20
	maxDocument = 64 << 20
	maxBundles  = 64
)

const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	emptyConfig = "application/vnd.oci.empty.v1+json"
	// Of images that were pulled.
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// descriptor points at a blob or manifest, as OCI has it.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Subject       *descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

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

func absent(err error) bool {
	e, ok := errors.AsType[*statusError](err)
	return ok && e.code == http.StatusNotFound
}

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

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// manifest reads a manifest by digest, and hashes it. A wrong hash is [ErrSwapped].
func (r repository) manifest(ctx context.Context, digest string) ([]byte, error) {
	data, err := r.read(ctx, "/manifests/"+digest, strings.Join([]string{ociManifest, ociIndex, dockerManifest, dockerIndex}, ", "), maxManifest)
	if err == nil && digestOf(data) != digest {
		err = mistake(ErrSwapped, "the registry has another manifest under %s: one with %s", digest, digestOf(data))
	}
	return data, err
}

// blob reads a small blob, and hashes it. A wrong hash is [ErrTampered].
func (r repository) blob(ctx context.Context, digest string) ([]byte, error) {
	data, err := r.read(ctx, "/blobs/"+digest, "*/*", maxDocument)
	if err == nil && digestOf(data) != digest {
		err = mistake(ErrTampered, "blob %s has the bytes of %s", digest, digestOf(data))
	}
	return data, err
}

// checkBlob hashes a blob of any size without keeping it.
func (r repository) checkBlob(ctx context.Context, d descriptor) error {
	resp, err := r.do(ctx, http.MethodGet, "/blobs/"+d.Digest, nil, nil, http.StatusOK)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, resp.Body); err != nil {
		return fmt.Errorf("read blob %s: %w", d.Digest, err)
	}
	if have := fmt.Sprintf("sha256:%x", sum.Sum(nil)); have != d.Digest {
		return mistake(ErrTampered, "blob %s has the bytes of %s", d.Digest, have)
	}
	return nil
}

// tagged is the digest that a tag points at; empty when there is no such tag.
func (r repository) tagged(ctx context.Context, tag string) (string, error) {
	data, err := r.read(ctx, "/manifests/"+tag, strings.Join([]string{ociManifest, ociIndex, dockerManifest, dockerIndex}, ", "), maxManifest)
	if absent(err) {
		return "", nil
	}
	return digestOf(data), err
}

func referrersTag(digest string) string { return strings.Replace(digest, ":", "-", 1) }

// referrers lists what refers to a manifest. byTag: the registry has no referrers API, and
// the list is an index under a tag, which clients write (OCI distribution 1.1, "Referrers
// Tag Schema"). distribution 3.1 has none.
func (r repository) referrers(ctx context.Context, digest string) (list []descriptor, byTag bool, err error) {
	data, err := r.read(ctx, "/referrers/"+digest, ociIndex, maxManifest)
	if absent(err) {
		byTag = true
		if data, err = r.read(ctx, "/manifests/"+referrersTag(digest), ociIndex, maxManifest); absent(err) {
			return nil, true, nil
		}
	}
	if err != nil {
		return nil, byTag, err
	}
	var i index
	if err := json.Unmarshal(data, &i); err != nil {
		return nil, byTag, mistake(ErrTampered, "the list of referrers is no index: %w", err)
	}
	return i.Manifests, byTag, nil
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

func (r repository) putManifest(ctx context.Context, ref, mediaType string, data []byte) error {
	resp, err := r.do(ctx, http.MethodPut, "/manifests/"+url.PathEscape(ref), data, map[string]string{"Content-Type": mediaType}, http.StatusCreated, http.StatusOK, http.StatusAccepted)
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
