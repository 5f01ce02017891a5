package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestServeAndGet(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"serve", "127.0.0.1:0"}, w) }()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimSpace(strings.TrimPrefix(line, "listening on "))
	hostname, _ := os.Hostname()
	for path, want := range map[string]string{"/": hostname + "\n", "/healthz": "ok\n"} {
		var out bytes.Buffer
		if err := run(t.Context(), []string{"get", "http://" + address + path}, &out); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%s: %q, want %q", path, out.String(), want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve after its context ended: %v", err)
	}
}

func TestGetFailsOnStatus(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	if err := run(t.Context(), []string{"get", server.URL}, io.Discard); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("error %v, want the 404", err)
	}
}

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, text := range []string{"a longer text", "short"} {
		if err := run(t.Context(), []string{"write", path, text}, io.Discard); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := run(t.Context(), []string{"read", path}, &out); err != nil {
			t.Fatal(err)
		}
		if out.String() != text {
			t.Errorf("read %q, want %q", out.String(), text)
		}
	}
}

func TestLookup(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"lookup", "127.0.0.1"}, &out); err != nil {
		t.Fatal(err)
	}
	if out.String() != "127.0.0.1\n" {
		t.Errorf("lookup printed %q", out.String())
	}
}

func TestSleepEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := run(ctx, []string{"sleep"}, io.Discard); err != nil {
		t.Errorf("sleep: %v", err)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"get"}, {"dance"}, {"sleep", "5"}, {"write", "file"}, {"reach"}, {"reach", "x*http://a"}, {"stream", "soon", "http://a"}, {"stream", "1s"}} {
		if err := run(t.Context(), args, io.Discard); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v, want usage", args, err)
		}
	}
}

// server answers with name.
func server(t *testing.T, name string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, name+"\n") }))
	t.Cleanup(s.Close)
	return s.URL
}

func TestServeOnSeveralAddresses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"serve", "127.0.0.1:0", "127.0.0.1:0"}, w) }()
	lines := bufio.NewReader(r)
	for range 2 {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		url := "http://" + strings.TrimSpace(strings.TrimPrefix(line, "listening on "))
		if err := run(t.Context(), []string{"get", url + "/healthz"}, io.Discard); err != nil {
			t.Error(err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	taken := strings.TrimPrefix(server(t, "x"), "http://")
	if err := run(t.Context(), []string{"serve", "127.0.0.1:0", taken}, io.Discard); err == nil {
		t.Error("served on an address that is taken")
	}
}

func TestReach(t *testing.T) {
	failing := httptest.NewServer(http.NotFoundHandler())
	defer failing.Close()
	a, b := server(t, "a"), server(t, "b")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"reach", "3*" + a, b, "2*" + failing.URL}, &out); err != nil {
		t.Fatal(err)
	}
	want := `{"url":"` + a + `","answers":["a","a","a"]}` + "\n" +
		`{"url":"` + b + `","answers":["b"]}` + "\n" +
		`{"url":"` + failing.URL + `","answers":[],"failed":2,"error":"status 404 Not Found"}` + "\n"
	if out.String() != want {
		t.Errorf("printed\n%swant\n%s", out.String(), want)
	}
}

func TestStream(t *testing.T) {
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 4 {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	defer s.Close()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"stream", "300ms", s.URL}, &out); err != nil {
		t.Fatal(err)
	}
	requests, failed := 0, 0
	decoder := json.NewDecoder(&out)
	for _, connections := range []string{"kept", "new"} {
		var got streamed
		if err := decoder.Decode(&got); err != nil {
			t.Fatal(err)
		}
		if got.Connections != connections || got.Requests == 0 || got.Slowest == 0 {
			t.Errorf("%+v, want requests on %s connections", got, connections)
		}
		if got.Failed > 0 && (got.Error != "status 502 Bad Gateway" || got.At == "") {
			t.Errorf("%+v", got)
		}
		requests, failed = requests+got.Requests, failed+got.Failed
	}
	if failed != 1 || requests != int(asked.Load()) {
		t.Errorf("%d of %d requests failed; %d were seen, one of them was refused", failed, requests, asked.Load())
	}
}

func TestStreamEndsWithItsInput(t *testing.T) {
	in, end := io.Pipe()
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if asked.Add(1) == 3 {
			end.Close()
		}
	}))
	defer s.Close()
	var out bytes.Buffer
	if err := stream(t.Context(), "-", s.URL, in, &out); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), `"failed":0`); n != 2 {
		t.Errorf("printed %s", out.String())
	}
}

func TestInbox(t *testing.T) {
	var b inbox
	post := func(body string) int {
		w := httptest.NewRecorder()
		b.put(w, httptest.NewRequest(http.MethodPost, "/alerts", strings.NewReader(body)))
		return w.Code
	}
	post("{\n\"a\": 1}")
	post("two")
	if code := post(strings.Repeat("x", inboxBytes+1)); code != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: status %d", code)
	}
	w := httptest.NewRecorder()
	b.get(w, httptest.NewRequest(http.MethodGet, "/alerts", nil))
	if got, want := w.Body.String(), "{ \"a\": 1}\ntwo\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for range 2 * inboxLines {
		post("more")
	}
	if len(b.lines) != inboxLines {
		t.Errorf("%d lines are kept, want %d", len(b.lines), inboxLines)
	}
}
