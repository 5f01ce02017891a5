package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// An API server's proxy to a Service that speaks TLS verifies nobody, and whoever takes the address
// of a pod on the way is believed. Requests for that proxy are therefore not sent to it: they go
// through a port-forward to a ready pod, and the pod shows a certificate for the Service's name.

// secureService is one port of a Service whose pods speak TLS.
type secureService struct {
	namespace, name, port string
}

func (s secureService) host() string { return s.name + "." + s.namespace + ".svc" }

// dialTimeout is for a port-forward and a handshake.
const dialTimeout = 30 * time.Second

// services are those that a client spoke to, and how.
type services struct {
	mu   sync.Mutex
	open map[secureService]*reached
}

// reached sends requests through a tunnel.
type reached struct {
	http.Client
	tunnel *tunnel
}

func (r *reached) close() {
	r.CloseIdleConnections()
	r.tunnel.leave(nil)
}

func (s *services) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.open {
		r.close()
	}
	s.open = nil
}

var secureProxyPath = regexp.MustCompile(`^/api/v1/namespaces/([^/]+)/services/https:([^/:]+):(\d+)/proxy(/.*)?$`)

// secureProxy is the Service whose proxy a path leads to, and what is asked of it.
func secureProxy(path *url.URL) (s secureService, u *url.URL, ok bool) {
	m := secureProxyPath.FindStringSubmatch(path.Path)
	if m == nil {
		return s, nil, false
	}
	s = secureService{m[1], m[2], m[3]}
	return s, &url.URL{Scheme: "https", Host: net.JoinHostPort(s.host(), s.port), Path: m[4], RawQuery: path.RawQuery}, true
}

func (c *Client) reach(ctx context.Context, s secureService) (*http.Client, error) {
	c.services.mu.Lock()
	defer c.services.mu.Unlock()
	if r, ok := c.services.open[s]; ok {
		return &r.Client, nil
	}
	port, err := strconv.Atoi(s.port)
	if err != nil {
		return nil, fmt.Errorf("port of service %s: %w", s.host(), err)
	}
	t := &tunnel{
		fresh: time.Second,
		choose: func(ctx context.Context, now backend) (backend, error) {
			return c.backend(ctx, s.namespace, s.name, port, now)
		},
		open: func(ctx context.Context, b backend) (string, func(), error) {
			return c.lastingForward(ctx, s.namespace, b)
		},
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout) // not always ends with the request's
		defer cancel()
		secure, err := c.credentials(ctx, s) // anew for each connection: authorities are exchanged
		if err != nil {
			return nil, err
		}
		f, conn, err := t.dial(ctx)
		if err != nil {
			return nil, err
		}
		secured := tls.Client(&forwarded{Conn: conn, release: sync.OnceFunc(func() { t.release(f) })}, secure)
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, secured.Close())
		}
		return secured, nil
	}
	r := &reached{http.Client{Transport: &http.Transport{DialTLSContext: dial, IdleConnTimeout: 30 * time.Second}}, t}
	if c.services.open == nil {
		c.services.open = map[secureService]*reached{}
	}
	c.services.open[s] = r
	return &r.Client, nil
}

// credentials are for a connection to a Service: who signs for it is what stands beside its certificate,
// in the Secret of its name, or the machine's own authorities where nothing does. Where it lets in who has
// a certificate, its own will do: who may read that Secret may ask.
func (c *Client) credentials(ctx context.Context, s secureService) (*tls.Config, error) {
	// The Service first: without it there is nothing to be said of a Secret.
	if _, err := c.Get(ctx, "v1", "Service", s.namespace, s.name); err != nil {
		return nil, err
	}
	name := s.name + "-tls"
	secret, err := c.Get(ctx, "v1", "Secret", s.namespace, name)
	if err != nil { // not as an API server's answer: it is not the Service that is missing
		return nil, fmt.Errorf("who signs for service %s cannot be told: %v", s.host(), err) //nolint:errorlint // see above
	}
	config := &tls.Config{ServerName: s.host(), MinVersion: tls.VersionTLS12}
	if ca := secretBytes(secret, "ca.crt"); len(ca) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fmt.Errorf("secret %s/%s: ca.crt holds no certificate", s.namespace, name)
		}
	}
	if key := secretBytes(secret, "tls.key"); len(key) > 0 {
		pair, err := tls.X509KeyPair(secretBytes(secret, "tls.crt"), key)
		if err != nil {
			return nil, fmt.Errorf("secret %s/%s: %w", s.namespace, name, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// lastingForward outlives the request that asked for it; one that is not there yet ends with it.
func (c *Client) lastingForward(ctx context.Context, namespace string, b backend) (string, func(), error) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	detach := context.AfterFunc(ctx, cancel)
	addr, stop, err := c.PortForward(life, namespace, b.pod, b.port)
	if err == nil && !detach() {
		stop()
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel()
		return "", nil, err
	}
	return addr, func() { cancel(); stop() }, nil
}

// forwarded gives its port-forward back when it is closed.
type forwarded struct {
	net.Conn
	release func()
}

func (f *forwarded) Close() error {
	err := f.Conn.Close()
	f.release()
	return err
}

// asAnswer is what an API server's proxy would have answered in place of err.
func asAnswer(err error) ([]byte, error) {
	var known apierrors.APIStatus
	if !errors.As(err, &known) {
		return nil, err
	}
	status := known.Status()
	status.Kind, status.APIVersion = "Status", "v1"
	body, jsonErr := json.Marshal(status)
	return body, errors.Join(err, jsonErr)
}
