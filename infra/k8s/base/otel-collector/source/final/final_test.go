package final

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	long := strings.Repeat("x", 2*most)
	for _, c := range []struct {
		status int
		body   string
		want   int
	}{
		{http.StatusOK, "", http.StatusOK},
		{http.StatusNoContent, "", http.StatusNoContent},
		{http.StatusTooManyRequests, "Ingestion rate limit exceeded", http.StatusTooManyRequests},
		{http.StatusTooManyRequests, "\x08\x03\x12maximum active stream limit exceeded when trying to create stream {}" + long, http.StatusBadRequest},
		{http.StatusTooManyRequests, long, http.StatusTooManyRequests},
		{http.StatusServiceUnavailable, "maximum active stream limit exceeded", http.StatusServiceUnavailable},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(c.status)
			_, _ = fmt.Fprint(w, c.body)
		}))
		wrap, err := middleware{[]string{"stream limit"}}.GetHTTPRoundTripper(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		transport, err := wrap(t.Context(), http.DefaultTransport)
		if err != nil {
			t.Fatal(err)
		}
		r, err := (&http.Client{Transport: transport}).Post(server.URL, "text/plain", strings.NewReader("lines"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		server.Close()
		if err != nil || r.StatusCode != c.want || string(body) != c.body {
			t.Errorf("%d %.40q: %d, want %d; body of %d bytes, want %d; %v", c.status, c.body, r.StatusCode, c.want, len(body), len(c.body), err)
		}
		if final := c.want != c.status; final != (r.Header.Get("Retry-After") == "") {
			t.Errorf("%d %.40q: Retry-After %q", c.status, c.body, r.Header.Get("Retry-After"))
		}
	}
}

func TestGone(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	if _, err := (&http.Client{Transport: transport{[]string{"x"}, http.DefaultTransport}}).Get(server.URL); err == nil {
		t.Error("an answer of nobody")
	}
}

func TestConfig(t *testing.T) {
	for _, bad := range []Config{{}, {Says: []string{"a", ""}}} {
		if bad.Validate() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	if err := (&Config{Says: []string{"stream limit"}}).Validate(); err != nil {
		t.Error(err)
	}
}
