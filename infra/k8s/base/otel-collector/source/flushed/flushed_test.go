package flushed

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// server acknowledges everything, and says that it is there.
type server struct {
	*httptest.Server
	taken  atomic.Int32
	probed atomic.Int32
	status atomic.Int32 // of the acknowledgement
	ready  atomic.Int32 // of the sign of life
}

func newServer(t *testing.T, l net.Listener) *server {
	t.Helper()
	s := &server{}
	s.status.Store(http.StatusOK)
	s.ready.Store(http.StatusOK)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ready" {
			s.probed.Add(1)
			w.WriteHeader(int(s.ready.Load()))
			return
		}
		s.taken.Add(1)
		w.WriteHeader(int(s.status.Load()))
	}))
	if l != nil {
		_ = s.Server.Listener.Close()
		s.Server.Listener = l
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// client sends to s as an exporter does.
func client(t *testing.T, s *server, after time.Duration) *http.Client {
	t.Helper()
	m := newMiddleware(Config{Probe: s.URL + "/ready", After: after})
	t.Cleanup(func() { _ = m.Shutdown(context.Background()) })
	wrap, err := m.GetHTTPRoundTripper(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	transport, err := wrap(t.Context(), &http.Transport{DisableKeepAlives: true})
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func post(c *http.Client, s *server) (int, error) {
	r, err := c.Post(s.URL+"/v1/traces", "application/x-protobuf", strings.NewReader("spans"))
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	return r.StatusCode, nil
}

func TestDelivered(t *testing.T) {
	s := newServer(t, nil)
	c := client(t, s, 100*time.Millisecond)
	for n := int32(1); n <= 3; n++ {
		begin := time.Now()
		status, err := post(c, s)
		if err != nil || status != http.StatusOK {
			t.Fatalf("%d, %v", status, err)
		}
		if took := time.Since(begin); took < 100*time.Millisecond {
			t.Errorf("counted as delivered after %s", took)
		}
		if s.taken.Load() != n || s.probed.Load() != 2*n {
			t.Errorf("taken %d times, probed %d times", s.taken.Load(), s.probed.Load())
		}
	}
}

// TestKilled: the server takes spans and is another process before it can have written them.
func TestKilled(t *testing.T) {
	s := newServer(t, nil)
	c := client(t, s, 300*time.Millisecond)
	ended := make(chan error)
	go func() { _, err := post(c, s); ended <- err }()
	for s.taken.Load() == 0 {
		time.Sleep(time.Millisecond) // until the request is in the server's hands
	}
	address := s.Listener.Addr().String()
	s.CloseClientConnections()
	s.Close()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("the port is taken: %v", err)
	}
	next := newServer(t, l)
	if err := <-ended; !errors.Is(err, errAnother) {
		t.Errorf("the acknowledgement of a server that is gone: %v", err)
	}
	if status, err := post(c, next); err != nil || status != http.StatusOK {
		t.Errorf("sent again: %d, %v", status, err)
	}
}

// TestGone: the server takes spans and does not come back.
func TestGone(t *testing.T) {
	s := newServer(t, nil)
	c := client(t, s, 300*time.Millisecond)
	ended := make(chan error)
	go func() { _, err := post(c, s); ended <- err }()
	for s.taken.Load() == 0 {
		time.Sleep(time.Millisecond) // until the request is in the server's hands
	}
	s.CloseClientConnections()
	s.Close()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "whether it is there") {
		t.Errorf("the acknowledgement of a server that is gone: %v", err)
	}
	if _, err := post(c, s); err == nil {
		t.Error("something was taken by nobody")
	}
}

func TestRefused(t *testing.T) {
	s := newServer(t, nil)
	c := client(t, s, time.Minute) // a refusal needs no wait
	s.status.Store(http.StatusTooManyRequests)
	if status, err := post(c, s); err != nil || status != http.StatusTooManyRequests {
		t.Errorf("%d, %v", status, err)
	}
	s.ready.Store(http.StatusServiceUnavailable)
	if _, err := post(c, s); err == nil || !strings.Contains(err.Error(), "503") || s.taken.Load() != 1 {
		t.Errorf("to a server that is not ready: %v, taken %d times", err, s.taken.Load())
	}
}

func TestCancelled(t *testing.T) {
	s := newServer(t, nil)
	c := client(t, s, time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, strings.NewReader("spans"))
	if _, err := c.Do(r); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		Config
		wrong string
	}{
		{Config{"http://tempo:3200/ready", time.Second}, ""},
		{Config{"tempo:3200", time.Second}, "probe is"},
		{Config{"", time.Second}, "probe is"},
		{Config{"http://tempo:3200/ready", 0}, "after is 0s"},
		{Config{"http://tempo:3200/ready", time.Hour}, "no more than a minute"},
	} {
		err := c.Validate()
		if c.wrong == "" && err != nil || c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%+v: %v", c.Config, err)
		}
	}
}
