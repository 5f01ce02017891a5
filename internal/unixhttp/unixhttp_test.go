package unixhttp

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
)

// A request comes out at the socket, with its body and what it is.
func TestRequest(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %q %s", r.Method, r.URL.Path, r.Header.Get("Content-Type"), body)
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	client := &http.Client{Transport: Transport("unix", socket)}
	defer client.CloseIdleConnections()
	for want, body := range map[string]any{`POST /x "" `: nil, `POST /x "application/json" {"a":1}`: map[string]int{"a": 1}} {
		req, err := Request(t.Context(), http.MethodPost, "http://nobody/x", body)
		if err != nil {
			t.Fatal(err)
		}
		r, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || string(got) != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	if _, err := Request(t.Context(), http.MethodPost, "http://nobody/x", make(chan int)); err == nil {
		t.Error("a body that is no JSON")
	}
}
