package kubetest

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Version of Kubernetes that the server says it is.
const Version = "v1.37.0"

// token is what the kubeconfig lets everybody in with.
const token = "kubetest"

// Server is one cluster. It outlives its listener: [Server.Stop] and [Server.Listen] are a
// restart that keeps the data. All methods are safe for concurrent use.
type Server struct {
	mu       sync.Mutex
	http     *httptest.Server // nil while nobody listens
	address  string           // host:port, once chosen
	ca       []byte
	version  int64 // resourceVersion of the last write
	objects  map[key]*unstructured.Unstructured
	kinds    map[schema.GroupVersionKind]kind
	holds    map[Ref]string
	faults   []*fault
	handlers map[string]http.Handler
	requests []Request
	logs     map[string]string
	nodes    []Node
	run      func(Exec) (string, error)
	forward  func(Forward) (string, error)
	denied   map[right]bool
	emptying map[key]bool // namespaces and CRDs whose contents are being deleted
}

// key tells objects apart, whichever version they are written in.
type key struct{ group, kind, namespace, name string }

// Ref names objects for [Server.Hold]. An empty Namespace or Name means all.
type Ref struct{ Kind, Namespace, Name string }

// Request is one that the server answered.
type Request struct {
	Method string
	Path   string // with the query
}

// New starts a cluster on a free port of 127.0.0.1, until the test ends.
func New(tb testing.TB) *Server {
	tb.Helper()
	s := NewServer()
	if err := s.Listen(""); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Stop)
	return s
}

// NewServer makes a cluster that nobody can reach before [Server.Listen].
func NewServer() *Server {
	s := &Server{handlers: map[string]http.Handler{}}
	s.Reset()
	return s
}

// Reset makes the cluster a new one: no objects but those that every cluster has, no nodes,
// nothing held or denied. Faults, handlers and the listener stay.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects, s.kinds = map[key]*unstructured.Unstructured{}, map[schema.GroupVersionKind]kind{}
	s.holds, s.logs, s.nodes, s.emptying = map[Ref]string{}, map[string]string{}, nil, map[key]bool{}
	s.denied = map[right]bool{}
	for _, k := range builtins() {
		s.kinds[k.gvk] = k
	}
	for _, name := range []string{"default", "kube-node-lease", "kube-public", "kube-system"} {
		s.put(object("v1", "Namespace", "", name, nil))
	}
	s.put(object("v1", "Service", "default", "kubernetes", map[string]any{"spec": map[string]any{
		"clusterIP": "10.96.0.1", "ports": []any{map[string]any{"name": "https", "port": int64(443)}},
	}}))
}

// Listen serves on address, "" for the one before or a free port of 127.0.0.1. A server that
// listens already goes on when the address is the same.
func (s *Server) Listen(address string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if address == "" {
		address = s.address
	}
	if s.http != nil {
		if address != s.address {
			return fmt.Errorf("the test's API server listens on %s already, not on %s: stop it first", s.address, address)
		}
		return nil
	}
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("the test's API server: %w", err)
	}
	server := httptest.NewUnstartedServer(s)
	server.Listener.Close() // the one that httptest chose
	server.Listener = l
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // what clients break off
	server.StartTLS()
	s.http, s.address = server, l.Addr().String()
	s.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return nil
}

// Stop ends all connections and refuses new ones. What the cluster holds stays.
func (s *Server) Stop() {
	s.mu.Lock()
	server := s.http
	s.http = nil
	s.mu.Unlock()
	if server == nil {
		return
	}
	server.CloseClientConnections()
	server.Close() // waits for requests, which need the lock
}

// Address is the host:port that the server listens on, or did.
func (s *Server) Address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.address
}

// Running says whether the server listens.
func (s *Server) Running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.http != nil
}

// Kubeconfig is a file for clients of the server.
func (s *Server) Kubeconfig() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://%s", certificate-authority-data: %s}}]
users: [{name: test, user: {token: %s}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
`, s.address, base64Text(s.ca), token)
}

// Handle has requests to paths that begin with prefix answered by h, before all else: an
// aggregated API, the proxy of a Service. A nil h takes that back.
func (s *Server) Handle(prefix string, h http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h == nil {
		delete(s.handlers, prefix)
		return
	}
	s.handlers[prefix] = h
}

// Requests are all that came in, oldest first.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Fault is what goes wrong with requests that it matches.
type Fault struct {
	Method string // "" is any
	Path   string // a part of the path, query included; "" is any
	Times  int    // how often; 0 is always

	Delay   time.Duration // before anything else
	Drop    bool          // the connection breaks without an answer
	Status  int           // the answer's status; 0 lets the request pass after Delay
	Message string        // of that answer
}

type fault struct {
	Fault
	left int
}

// Inject adds a fault; the function takes it back.
func (s *Server) Inject(f Fault) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	added := &fault{f, f.Times}
	s.faults = append(s.faults, added)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.faults = slices.DeleteFunc(s.faults, func(o *fault) bool { return o == added })
	}
}

// fault that meets a request, if any.
func (s *Server) fault(r *http.Request) *fault {
	for _, f := range s.faults {
		if f.Method != "" && f.Method != r.Method || !strings.Contains(r.URL.RequestURI(), f.Path) {
			continue
		}
		switch {
		case f.Times == 0:
		case f.left == 0:
			continue
		default:
			f.left--
		}
		return f
	}
	return nil
}

// errNoSuchPath is for what the server does not serve.
var errNoSuchPath = errors.New("the test's API server serves no such path")

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, Request{r.Method, r.URL.RequestURI()})
	f := s.fault(r)
	var handler http.Handler
	longest := -1
	for prefix, h := range s.handlers {
		if strings.HasPrefix(r.URL.Path, prefix) && len(prefix) > longest {
			handler, longest = h, len(prefix)
		}
	}
	s.mu.Unlock()
	if f != nil {
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
			return
		}
		if f.Drop {
			panic(http.ErrAbortHandler) // net/http closes the connection
		}
		if f.Status != 0 {
			reply(w, f.Status, failure(f.Status, f.Message))
			return
		}
	}
	switch {
	case handler != nil:
		handler.ServeHTTP(w, r)
	case r.URL.Path == "/readyz" || r.URL.Path == "/livez" || r.URL.Path == "/healthz":
		fmt.Fprint(w, "ok")
	case r.Header.Get("Authorization") != "Bearer "+token:
		reply(w, http.StatusUnauthorized, failure(http.StatusUnauthorized, "Unauthorized"))
	default:
		s.serve(w, r)
	}
}
