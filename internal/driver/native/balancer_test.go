package native

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// apiServer is a TLS server that says whether it is ready, in time or late.
type apiServer struct {
	*httptest.Server
	ready, late atomic.Bool
}

func newAPIServer(t *testing.T, name string) *apiServer {
	s := &apiServer{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" && !s.ready.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
		if r.URL.Path == "/readyz" && s.late.Load() {
			<-r.Context().Done()
		}
		_, _ = io.WriteString(w, name)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *apiServer) address() string { return strings.TrimPrefix(s.URL, "https://") }

// startBalancer in front of the servers; address is where it listens. It ends with the test,
// and leaves nothing running.
func startBalancer(t *testing.T, servers ...*apiServer) (bal *balancer, address string) {
	current := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, current) }) // registered first, so it runs last
	roots := x509.NewCertPool()
	var addresses []string
	for _, s := range servers {
		roots.AddCert(s.Certificate())
		addresses = append(addresses, s.address())
	}
	var d net.Dialer
	bal = newBalancer(addresses, func(ctx context.Context, addr string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", addr)
	}, slog.New(slog.DiscardHandler))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() { bal.run(ctx, roots); close(stopped) }()
	go bal.serve(l)
	t.Cleanup(func() { l.Close(); cancel(); <-stopped })
	return bal, l.Addr().String()
}

// On a busy machine all API servers are late at times. Nobody's connection is cut for that, and
// new ones are passed on all the same.
func TestBalancerSparesTheSlow(t *testing.T) {
	servers := []*apiServer{newAPIServer(t, "a"), newAPIServer(t, "b")}
	for _, s := range servers {
		s.ready.Store(true)
	}
	bal, address := startBalancer(t, servers...)
	waitFor(t, func() bool { return len(bal.ready()) == 2 })
	client := servers[0].Client()
	get := func() {
		t.Helper()
		r, err := client.Get("https://" + address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	kept := make([]net.Conn, 4)
	for i := range kept {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		kept[i] = c
	}
	for _, s := range servers {
		s.late.Store(true)
	}
	waitFor(t, func() bool { return len(bal.ready()) == 0 })
	for i, c := range kept {
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connection %d was cut: %v", i, err)
		}
	}
	client.Timeout = holdTime / 3
	get()
	client.CloseIdleConnections()
	servers[1].late.Store(false)
	waitFor(t, func() bool { return len(bal.ready()) == 1 })
}

func TestBalancer(t *testing.T) {
	a, b := newAPIServer(t, "a"), newAPIServer(t, "b")
	bal, address := startBalancer(t, a, b)

	client := a.Client()
	client.Timeout = time.Minute
	client.Transport.(*http.Transport).DisableKeepAlives = true
	get := func() (string, error) {
		r, err := client.Get("https://" + address)
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		return string(body), err
	}
	// A connection made while nobody is ready waits for the first that is.
	go func() { time.Sleep(150 * time.Millisecond); b.ready.Store(true) }()
	if who, err := get(); who != "b" || err != nil {
		t.Fatalf("got %q, %v; want b, the only one that is ready", who, err)
	}
	a.ready.Store(true)
	waitFor(t, func() bool { return len(bal.ready()) == 2 })
	seen := map[string]bool{}
	for range 8 {
		who, err := get()
		if err != nil {
			t.Fatal(err)
		}
		seen[who] = true
	}
	if !seen["a"] || !seen["b"] {
		t.Errorf("only %v was asked", seen)
	}
	// An open connection is cut when its backend goes, so that the client looks for another.
	open := func(n int) func() bool {
		return func() bool { bal.mu.Lock(); defer bal.mu.Unlock(); return len(bal.open) == n }
	}
	waitFor(t, open(0))
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	waitFor(t, open(1))
	a.Close()
	b.Close()
	bal.down(a.address())
	bal.down(b.address())
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			t.Error("the connection stays open")
		}
	}
}

// waitFor looks again and again: what it waits for happens in goroutines that tell nobody.
func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited for a minute")
		}
	}
}

func TestBackoff(t *testing.T) {
	b := &backoff{first: 1, most: 5, stable: 100}
	var got []time.Duration
	for _, ran := range []time.Duration{0, 0, 0, 0, 0, 100, 0} {
		got = append(got, b.pause(ran))
	}
	want := []time.Duration{1, 2, 4, 5, 5, 1, 2}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("pauses %v, want %v", got, want)
		}
	}
}
