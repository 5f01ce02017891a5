package native

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/spec"
)

func TestFollowOverRotation(t *testing.T) {
	e := spec.Named("unit")
	e.Network.Plugin = spec.PluginPTP
	e.Ports = spec.Ports{API: 1234, Registry: 1235}
	d, err := New(Options{Spec: e, StateDir: t.TempDir(), Journal: &memoryJournal{}})
	if err != nil {
		t.Fatal(err)
	}
	path := d.paths.nodeLog("server1", "etcd")
	if _, err := writeFile(path, []byte(strings.Repeat("x", maxLog)+"\nold\n")); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r, pipe := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Logs(ctx, "server1", "etcd", true, pipe); pipe.Close() }()
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLog+1)
	expect := func(want string) {
		t.Helper()
		for s.Scan() {
			if s.Text() == want {
				return
			}
		}
		t.Fatalf("%q never came", want)
	}
	expect("old")
	rotateLogs(d.paths, slog.New(slog.DiscardHandler))
	if st, err := os.Stat(path); err != nil || st.Size() != 0 {
		t.Fatalf("not rotated: %v %v", st, err)
	}
	if _, err := w.WriteString("new\n"); err != nil {
		t.Fatal(err)
	}
	expect("new")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !exists(path + ".1") {
		t.Error("the old log is gone")
	}
}

func TestParseNameservers(t *testing.T) {
	got := parseNameservers(bufio.NewScanner(strings.NewReader("# x\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch a\nnameserver bad\n")))
	if len(got) != 1 || got[0].String() != "192.0.2.1" {
		t.Errorf("got %v", got)
	}
}
