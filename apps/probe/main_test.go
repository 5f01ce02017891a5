package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
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
	for _, args := range [][]string{nil, {"get"}, {"dance"}, {"sleep", "5"}, {"write", "file"}} {
		if err := run(t.Context(), args, io.Discard); !errors.Is(err, errUsage) {
			t.Errorf("%q: %v, want usage", args, err)
		}
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
