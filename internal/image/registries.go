package image

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/net/http/httpproxy"

	"github.com/orrery-dev/orrery/internal/oci"
)

// RegistryOptions of [NewRegistries].
type RegistryOptions struct {
	// CacheDir holds what was pulled, beside what a [Builder] keeps there. Required.
	CacheDir string
	// CABundle is a PEM file with authorities that are trusted besides the system's.
	CABundle string
	Log      *slog.Logger // nil drops
	// DialTimeout bounds the connection, and TLS, to a registry or proxy. Default 5 s.
	DialTimeout time.Duration
	// StallTimeout is how long a connection may say nothing. Default 30 s.
	StallTimeout time.Duration
	// Keychain has credentials. Default: what docker and podman are logged in with.
	Keychain authn.Keychain
}

// Registries pulls images by digest. Proxies come from the environment (HTTPS_PROXY,
// NO_PROXY). What comes back is the content of the digest that was asked for, or an
// error: [ErrNotReachable] where it cannot be had now, [ErrWrongContent] where somebody
// answers with something else. It is safe for concurrent use, also by several processes
// on one CacheDir.
type Registries struct {
	opts      RegistryOptions
	layout    layout
	transport *http.Transport
	arch      string

	mu     sync.Mutex
	logins map[string]*login // by repository and scope
}

// Errors of [Registries] wrap one of these.
var (
	// ErrNotReachable: the image cannot be had from there, for whatever reason: no network,
	// no permission, no such image, nothing for this platform. Another source may have it.
	ErrNotReachable = errors.New("not reachable")
	// ErrWrongContent: what came is not what its digest says.
	ErrWrongContent = errors.New("wrong content")
)

// PulledDir is the folder of the cache that holds what was pulled: an OCI layout.
const PulledDir = "pulled"

// ErrNoAnswer is wrapped, beside ErrNotReachable, when there was too little time.
var ErrNoAnswer = errors.New("no answer in time")

// NewRegistries prepares for pulls; it connects to nothing.
func NewRegistries(o RegistryOptions) (*Registries, error) {
	if o.CacheDir == "" {
		return nil, errors.New("no cache folder was given")
	}
	dir, err := filepath.Abs(o.CacheDir)
	if err != nil {
		return nil, err
	}
	roots, err := authorities(o.CABundle)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Keychain == nil {
		o.Keychain = authn.DefaultKeychain
	}
	o.DialTimeout = cmp.Or(o.DialTimeout, 5*time.Second)
	o.StallTimeout = cmp.Or(o.StallTimeout, 30*time.Second)
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	dialer := net.Dialer{Timeout: o.DialTimeout, KeepAlive: 30 * time.Second}
	return &Registries{
		opts: o, layout: layout{dir: filepath.Join(dir, PulledDir)}, arch: runtime.GOARCH, logins: map[string]*login{},
		transport: &http.Transport{
			Proxy: func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := dialer.DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return &impatient{Conn: c, patience: o.StallTimeout}, nil
			},
			TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:   o.DialTimeout,
			ResponseHeaderTimeout: o.StallTimeout,
			IdleConnTimeout:       o.StallTimeout,
			MaxIdleConnsPerHost:   8,
			ForceAttemptHTTP2:     true,
		},
	}, nil
}

// Close gives idle connections back.
func (r *Registries) Close() { r.transport.CloseIdleConnections() }

// Client is for what is asked for over HTTPS beside registries: by the same proxies, with the same
// authorities and patience. This machine's own addresses may speak plain HTTP.
func (r *Registries) Client() *http.Client { return &http.Client{Transport: r.transport} }

// authorities are the system's and those of a PEM file.
func authorities(bundle string) (*x509.CertPool, error) {
	if bundle == "" {
		return nil, nil // the system's
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	data, err := os.ReadFile(bundle)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("images.caBundle: there is no file %s", bundle)
	}
	if err != nil {
		return nil, fmt.Errorf("images.caBundle: %w", err)
	}
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("images.caBundle: %s holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)", bundle)
	}
	return pool, nil
}

// impatient is a connection on which a peer that says nothing for too long is an error: a
// download that stalls must not hold an `up` for ever.
type impatient struct {
	net.Conn
	patience time.Duration
}

// Read sets the deadline anew: what counts is silence, not the length of a download.
func (c *impatient) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.patience)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// login is what requests to one repository go through. A failed one is kept only for a
// moment: long enough that those who ask at the same time do not all wait for a timeout.
type login struct {
	once   sync.Once
	client *http.Client
	err    error
}

// client is authorised for a repository: to pull from it (transport.PullScope), or to push to
// it too.
func (r *Registries) client(ctx context.Context, repo name.Repository, scope string) (*http.Client, error) {
	key := scope + " " + repo.Name()
	r.mu.Lock()
	l, ok := r.logins[key]
	if !ok {
		l = &login{}
		r.logins[key] = l
	}
	r.mu.Unlock()
	l.once.Do(func() {
		auth, err := authn.Resolve(ctx, r.opts.Keychain, repo)
		if err != nil {
			l.err = fmt.Errorf("credentials for %s: %w", repo.RegistryStr(), err)
			return
		}
		t, err := transport.NewWithContext(ctx, repo.Registry, auth, tlsOnly{r.transport}, []string{repo.Scope(scope)})
		l.client, l.err = &http.Client{Transport: t}, err
	})
	if l.err != nil {
		r.mu.Lock()
		if r.logins[key] == l {
			delete(r.logins, key)
		}
		r.mu.Unlock()
	}
	return l.client, l.err
}

// tlsOnly goes to registries over TLS, whatever is guessed of their address: the library below
// tries plain HTTP with those of private networks, and would send a password along. This
// machine's own may speak plain HTTP.
type tlsOnly struct{ to http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (t tlsOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" && !loopback(r.URL.Hostname()) {
		r = r.Clone(r.Context())
		r.URL.Scheme = "https"
	}
	return t.to.RoundTrip(r)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// request sends one request below /v2/REPOSITORY/. The caller closes the body.
func (r *Registries) request(ctx context.Context, method string, repo name.Repository, path string, accept ...string) (*http.Response, error) {
	client, err := r.client(ctx, repo, transport.PullScope)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, urlOf(repo)+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	if len(accept) > 0 {
		req.Header.Set("Accept", strings.Join(accept, ", "))
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, http.StatusOK); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// urlOf is where the API has a repository.
func urlOf(repo name.Repository) string {
	return fmt.Sprintf("%s://%s/v2/%s", repo.Scheme(), repo.RegistryStr(), repo.RepositoryStr())
}

// Probe asks for references by digest, all at once, without pulling anything: nil where it
// is there. Whatever has not answered when ctx ends is not reachable. The map has an entry
// for each reference.
func (r *Registries) Probe(ctx context.Context, references []string) map[string]error {
	return r.probeAll(ctx, references, r.probe)
}

func (r *Registries) probeAll(ctx context.Context, references []string, probe func(context.Context, string) error) map[string]error {
	var mu sync.Mutex
	var wait sync.WaitGroup
	found := map[string]error{}
	slots := make(chan struct{}, 16)
	for _, ref := range references {
		wait.Go(func() {
			var err error
			select {
			case slots <- struct{}{}:
				err = probe(ctx, ref)
				<-slots
			case <-ctx.Done():
				err = notReachable(ref, ctx.Err())
			}
			mu.Lock()
			defer mu.Unlock()
			found[ref] = err
		})
	}
	wait.Wait()
	return found
}

func (r *Registries) probe(ctx context.Context, ref string) error {
	digest, err := name.NewDigest(ref, name.StrictValidation)
	if err != nil {
		return notReachable(ref, err)
	}
	resp, err := r.request(ctx, http.MethodHead, digest.Context(), "manifests/"+digest.DigestStr(), oci.ManifestTypes...)
	if err != nil {
		return notReachable(ref, err)
	}
	return resp.Body.Close()
}

// notReachable says for a person why an image cannot be had.
func notReachable(ref string, err error) error {
	_, unresolved := errors.AsType[*net.DNSError](err)
	timeout, ok := errors.AsType[net.Error](err)
	if !unresolved && (ok && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded)) {
		return fmt.Errorf("image %s %w: %w", ref, ErrNotReachable, ErrNoAnswer)
	}
	return fmt.Errorf("image %s %w: %s", ref, ErrNotReachable, reason(err))
}

func reason(err error) string {
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		switch code := answer.StatusCode; code {
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Sprintf("the registry answers %d %s: log in with docker login or podman login,"+
				" or ask for permission to pull", code, http.StatusText(code))
		case http.StatusNotFound:
			return "the registry does not have it (404)"
		default:
			return fmt.Sprintf("the registry answers %d %s", code, http.StatusText(code))
		}
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Sprintf("the name %s cannot be resolved", dns.Name)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "its certificate is signed by an unknown authority: images.caBundle of orrery.yaml names a file with further ones"
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	const most = 200
	if len(text) > most {
		text = text[:most] + "…"
	}
	return text
}

// Holds reports whether an image came from here.
func (r *Registries) Holds(built Built) bool { return built.Layout == r.layout.dir }

// Prune removes what was pulled and is none of the digests ("sha256:…") in keep, and adds
// it to p.
func (r *Registries) Prune(ctx context.Context, p *Pruned, keep []string, dryRun bool) error {
	if _, err := os.Stat(r.layout.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	keys := map[string]bool{}
	for _, digest := range keep {
		keys[strings.TrimPrefix(digest, "sha256:")] = true
	}
	if err := r.layout.prune(ctx, p, keys, dryRun); err != nil {
		return fmt.Errorf("prune pulled images: %w", err)
	}
	return nil
}
