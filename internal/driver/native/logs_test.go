package native

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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

// hostile is a node's log folder as a pod with a hostPath to /var/log/orrery may leave it: etcd.log
// is large and a link, or what the link names, or a pipe.
func hostile(t *testing.T, d *Driver, lay func(log string) error) {
	t.Helper()
	dir := filepath.Dir(d.paths.nodeLog("server1", "etcd"))
	if err := errors.Join(os.MkdirAll(dir, 0o755), lay(dir)); err != nil {
		t.Fatal(err)
	}
}

// Nothing that a node lays makes root read or write a file of the host.
func TestLogsOfAHostileNode(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "shadow")
	large := strings.Repeat("s3cret\n", maxLog/7+1)
	for name, lay := range map[string]func(log string) error{
		"the log is a link":          func(log string) error { return os.Symlink(outside, filepath.Join(log, "etcd.log")) },
		"the log is a relative link": func(log string) error { return relink(log, outside, "etcd.log") },
		"the old log is a link": func(log string) error {
			return errors.Join(os.WriteFile(filepath.Join(log, "etcd.log"), []byte(large), 0o600), os.Symlink(outside, filepath.Join(log, "etcd.log.1")))
		},
		"the init log is a link": func(log string) error { return os.Symlink(outside, filepath.Join(log, "init.log")) },
		"the log is a pipe":      func(log string) error { return unix.Mkfifo(filepath.Join(log, "etcd.log"), 0o600) },
		"the old log is a pipe": func(log string) error {
			return errors.Join(os.WriteFile(filepath.Join(log, "etcd.log"), []byte(large), 0o600), unix.Mkfifo(filepath.Join(log, "etcd.log.1"), 0o600))
		},
		"the log has a hole of 1 TiB": func(log string) error {
			return errors.Join(os.WriteFile(filepath.Join(log, "etcd.log"), nil, 0o600), os.Truncate(filepath.Join(log, "etcd.log"), 1<<40))
		},
		"the init log is a pipe": func(log string) error { return unix.Mkfifo(filepath.Join(log, "init.log"), 0o600) },
		"the folders are links outside": func(log string) error {
			return errors.Join(os.MkdirAll(filepath.Join(log, "..", "var"), 0o755), os.Symlink(filepath.Dir(outside)+"/made", filepath.Join(log, "..", "var", "lib")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(outside, []byte(large), 0o600); err != nil {
				t.Fatal(err)
			}
			e := spec.Named("unit")
			e.Network.Plugin, e.Ports = spec.PluginPTP, spec.Ports{API: 1234, Registry: 1235}
			d, err := New(Options{Spec: e, StateDir: t.TempDir(), Journal: &memoryJournal{}})
			if err != nil {
				t.Fatal(err)
			}
			hostile(t, d, lay)
			rotateLogs(d.paths, slog.New(slog.DiscardHandler))
			var shown strings.Builder
			if name != "the log has a hole of 1 TiB" {
				for _, service := range []string{"etcd", "init"} {
					_ = d.Logs(t.Context(), "server1", service, false, &shown) // it may well be an error
				}
				shown.WriteString(tail(d.paths.nodeLog("server1", "etcd"), 100))
			}
			m := &machine{node: d.cluster.Nodes[0], paths: d.paths, cluster: d.cluster}
			_ = m.folders()
			if log, err := m.openLog(); err == nil {
				_, _ = log.WriteString("hello\n")
				log.Close()
			}
			if strings.Contains(name, "log is") && !strings.Contains(name, "old") && strings.Contains(shown.String(), "s3cret") {
				t.Error("a file of the host was shown")
			}
			if b, err := os.ReadFile(outside); err != nil || string(b) != large {
				t.Errorf("a file of the host was written to: %d bytes, %v", len(b), err)
			}
			if made, _ := filepath.Glob(filepath.Dir(outside) + "/*"); len(made) != 1 {
				t.Errorf("made on the host: %v", made)
			}
			if st, err := os.Stat(d.paths.nodeLog("server1", "etcd") + ".1"); err == nil && st.Mode().IsRegular() && st.Size() > 2*maxLog {
				t.Errorf("the old log has %d bytes", st.Size())
			}
		})
	}
}

// relink lays a relative link from a folder to a file.
func relink(dir, to, name string) error {
	rel, err := filepath.Rel(dir, to)
	if err != nil {
		return err
	}
	return os.Symlink(rel, filepath.Join(dir, name))
}

func TestParseNameservers(t *testing.T) {
	got := parseNameservers(bufio.NewScanner(strings.NewReader("# x\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch a\nnameserver bad\n")))
	if len(got) != 1 || got[0].String() != "192.0.2.1" {
		t.Errorf("got %v", got)
	}
}
