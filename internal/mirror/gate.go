package mirror

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Gate stands before a registry. Everybody may read images by their names. Whatever else a
// registry can do (uploads, deletions, the list of all names) needs the password. Web pages
// are refused, and so is who calls the registry by another name: a page of the internet could
// reach a port of 127.0.0.1 in either way.
type Gate struct {
	// Dial connects to the registry.
	Dial func(ctx context.Context) (net.Conn, error)
	// Hosts are the names and addresses, without a port, that it may be called by.
	Hosts []string
	// Password is asked for at each use. nil: the registry is read through this gate, and no
	// password helps.
	Password func() (string, error)
	// Writes, unless nil, is told of what is part of a push, and may have it wait.
	Writes *Writes
	Log    *slog.Logger
}

// Limits of a client: slow ones must not hold connections for ever.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
)

// Server serves the registry through the gate.
func (g Gate) Server() *http.Server {
	return &http.Server{Handler: g.Handler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(g.Log.Handler(), slog.LevelDebug)}
}

// Handler is the gate with the registry behind it.
func (g Gate) Handler() http.Handler {
	behind := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "registry"})
			r.Out.Host = r.In.Host // the registry says where an upload goes on
			r.Out.Header.Del("Authorization")
		},
		Transport: &http.Transport{
			DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return g.Dial(ctx) },
			MaxIdleConnsPerHost: 32, IdleConnTimeout: idleTimeout, DisableCompression: true,
		},
		BufferPool: buffers{},
		ErrorLog:   slog.NewLogLogger(g.Log.Handler(), slog.LevelWarn),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				g.Log.Warn("the registry does not answer", "error", err)
			}
			refuse(w, http.StatusBadGateway, "UNAVAILABLE", "the registry behind the mirror's port does not answer")
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !g.called(r.Host):
			refuse(w, http.StatusMisdirectedRequest, "DENIED", "this registry is not called "+r.Host)
		case fromPage(r.Header):
			refuse(w, http.StatusForbidden, "DENIED", "web pages are not served")
		case !reads(r) && g.Password == nil:
			refuse(w, http.StatusForbidden, "DENIED", "images are only read here; they are pushed on the host, to its port of 127.0.0.1")
		case (!reads(r) || g.Password != nil && ping(r)) && !g.admits(r):
			// Clients ask for /v2/ to learn whether they need a password: they have it then.
			w.Header().Set("WWW-Authenticate", `Basic realm="orrery"`)
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "to push and delete, log in as "+User+" with the password of the environment (docs/reference/images.md)")
		case g.Writes != nil && pushes(r):
			if err := g.Writes.begin(r.Context()); err != nil {
				refuse(w, http.StatusServiceUnavailable, "UNAVAILABLE", "the mirror is being cleaned up")
				return
			}
			defer g.Writes.end()
			behind.ServeHTTP(w, r)
		default:
			behind.ServeHTTP(w, r)
		}
	})
}

// called: the host of a request is ours. Its port may be another one: of a tunnel, say.
func (g Gate) called(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return slices.Contains(g.Hosts, strings.ToLower(host))
}

// fromPage: a browser says where a request comes from, and "none" when a person typed it.
func fromPage(h http.Header) bool {
	site := h.Get("Sec-Fetch-Site")
	return h.Get("Origin") != "" || site != "" && site != "none"
}

// admits: the request has the password.
func (g Gate) admits(r *http.Request) bool {
	user, given, ok := r.BasicAuth()
	if !ok || user != User {
		return false
	}
	want, err := g.Password()
	if err != nil || want == "" {
		g.Log.Warn("nobody can write to the mirror: its password cannot be read", "error", err)
		return false
	}
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(want))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

func ping(r *http.Request) bool { return r.URL.Path == "/v2/" || r.URL.Path == "/v2" }

// readable are the requests of OCI's distribution specification that only read one name: its
// tags, a manifest, a blob, what refers to a manifest.
var readable = regexp.MustCompile(`^/v2/[a-z0-9][a-z0-9._/-]*/(tags/list|manifests/[A-Za-z0-9_][A-Za-z0-9._:-]*|(blobs|referrers)/[a-z0-9]+:[a-f0-9]+)$`)

func reads(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	return ping(r) || readable.MatchString(r.URL.Path) && !strings.Contains(r.URL.Path, "..")
}

// refuse answers as a registry does.
func refuse(w http.ResponseWriter, status int, code, message string) {
	type mistake struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string][]mistake{"errors": {{code, message}}})
}

// buffers for copying layers.
type buffers struct{}

var pool = sync.Pool{New: func() any { return new([128 << 10]byte) }}

func (buffers) Get() []byte  { return pool.Get().(*[128 << 10]byte)[:] }
func (buffers) Put(b []byte) { pool.Put((*[128 << 10]byte)(b)) }
