// Package buildtest has what tests of builds share: a small program, a cache that need not
// compile the standard library again, and a record of events. Only tests import it.
package buildtest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/ui"
)

// Recorder keeps events.
type Recorder struct {
	mu     sync.Mutex
	events []ui.Event
}

// Emit keeps e.
func (r *Recorder) Emit(e ui.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

// Messages are those of one type, in order.
func (r *Recorder) Messages(t ui.Type) (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Type == t {
			out = append(out, e.Message)
		}
	}
	return out
}

// Cache makes dir a cache whose Go build cache is the developer's own: the standard library
// is not compiled again for every test.
func Cache(t testing.TB, dir string) {
	t.Helper()
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(strings.TrimSpace(string(out)), filepath.Join(dir, "go-build")); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
}

// Module writes files into a new folder and returns it.
func Module(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Hello is a program that needs nothing but the runtime, so that it builds in no time.
func Hello(t testing.TB) catalog.Binary {
	dir := Module(t, map[string]string{
		"go.mod":  "module example.org/hello\n\ngo 1.24\n",
		"main.go": "package main\n\nvar who = \"world\"\n\nfunc main() { println(\"hello\", who) }\n",
	})
	return catalog.Binary{Name: "hello", Dir: dir, Package: ".", Version: "v1.2.3", CPUSeconds: 1, MemoryMiB: 100}
}

// Flip changes one byte in the middle of a file; keepTime leaves its time as it was.
func Flip(path string, keepTime bool) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o755); err != nil || !keepTime {
		return err
	}
	return os.Chtimes(path, info.ModTime(), info.ModTime())
}
