package pinned

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/catalog"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

func file(content string) catalog.File {
	return catalog.File{Name: "crd.yaml", URL: "https://files.test/acme/op/" + commit + "/crd.yaml", Commit: commit, SHA256: sum([]byte(content))}
}

// What is served in the place of a file, and what a person is told.
func TestGet(t *testing.T) {
	const content = "kind: CustomResourceDefinition\n"
	for _, tt := range []struct {
		name   string
		serve  http.HandlerFunc // of the mirror; the publisher is never there
		wraps  error
		says   []string
		silent bool
	}{
		{name: "as it should be", serve: func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/m/files.test/acme/op/"+commit+"/crd.yaml" {
				_, _ = w.Write([]byte(content))
			}
		}},
		{name: "another file", serve: body("kind: Secret\n"), wraps: ErrWrongContent, says: []string{sum([]byte("kind: Secret\n")), sum([]byte(content)), commit, "13 bytes"}},
		{name: "a link", serve: body("../../config/crd/bases/crd.yaml"), wraps: ErrWrongContent, says: []string{"symbolic link", "../../config/crd/bases/crd.yaml"}},
		{name: "a page", serve: body("<!DOCTYPE html><title>Log in</title>"), wraps: ErrWrongContent, says: []string{"a page for people"}},
		{name: "cut off", serve: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "31")
			_, _ = w.Write([]byte(content[:10]))
		}, wraps: ErrNotReachable, says: []string{"ends after 10 bytes"}},
		{name: "too large", serve: func(w http.ResponseWriter, _ *http.Request) {
			for range maxSize/(1<<20) + 1 {
				_, _ = w.Write(make([]byte, 1<<20))
			}
		}, wraps: ErrWrongContent, says: []string{"more than 16 MiB"}},
		{name: "forbidden", serve: status(403), wraps: ErrNotReachable, says: []string{"403 Forbidden"}},
		{name: "gone", serve: status(404), wraps: ErrNotReachable, says: []string{"404 Not Found"}},
		{name: "broken", serve: status(502), wraps: ErrNotReachable, says: []string{"502 Bad Gateway"}},
		{name: "silent", silent: true, wraps: ErrNoAnswer, says: []string{"no answer in time"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			done := make(chan struct{})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if tt.silent {
					select {
					case <-done:
					case <-r.Context().Done():
					}
					return
				}
				tt.serve(w, r)
			}))
			defer server.Close()
			defer close(done)
			limit := 20 * time.Second
			if tt.silent {
				limit = 50 * time.Millisecond
			}
			s := &Store{CacheDir: t.TempDir(), Mirrors: []string{server.URL + "/m/"}, Client: &http.Client{Transport: only{server.Client().Transport, strings.TrimPrefix(server.URL, "http://")}}}
			data, err := s.Get(t.Context(), file(content), limit)
			if tt.wraps == nil {
				if err != nil || string(data) != content {
					t.Fatalf("%q, %v", data, err)
				}
				server.Close() // from now on it is here
				if data, err = s.Get(t.Context(), file(content), limit); err != nil || string(data) != content {
					t.Errorf("afterwards: %q, %v", data, err)
				}
				return
			}
			if !errors.Is(err, tt.wraps) {
				t.Fatalf("%v is not %v", err, tt.wraps)
			}
			for _, part := range tt.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v\nsays nothing of %q", err, part)
				}
			}
			if left, _ := os.ReadDir(filepath.Join(s.CacheDir, Dir)); len(left) > 0 {
				t.Errorf("it was kept: %v", left)
			}
		})
	}
}

// only reaches one host: the others have no name.
type only struct {
	to   http.RoundTripper
	host string
}

func (o only) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != o.host {
		return nil, errors.New("no such host")
	}
	return o.to.RoundTrip(r)
}

func body(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// A mirror that lies is passed over, a damaged copy is fetched again, and what a bundle has is
// not asked for.
func TestGetElsewhere(t *testing.T) {
	const content = "a: b\n"
	var asked atomic.Int32
	lies, honest := httptest.NewServer(body("a: c\n")), httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body(content)(w, r)
	}))
	defer lies.Close()
	defer honest.Close()
	s := &Store{CacheDir: t.TempDir(), Mirrors: []string{lies.URL, honest.URL}, Client: http.DefaultClient}
	get := func(times int32) {
		t.Helper()
		data, err := s.Get(t.Context(), file(content), 20*time.Second)
		if err != nil || string(data) != content || asked.Load() != times {
			t.Fatalf("%q, %v, asked %d times", data, err, asked.Load())
		}
	}
	get(1)
	get(1)
	kept := filepath.Join(s.CacheDir, Dir, file(content).SHA256)
	if err := os.WriteFile(kept, []byte("a: d\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	get(2)
	s.Imported, s.CacheDir = []string{filepath.Dir(kept)}, t.TempDir()
	get(2)

	s.Imported, s.Client = nil, nil
	if _, err := s.Get(t.Context(), file(content), time.Second); !errors.Is(err, ErrNotReachable) || !strings.Contains(err.Error(), "images.sources") {
		t.Errorf("without permission to fetch: %v", err)
	}
}
