package build

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/orrery-dev/orrery/internal/build/buildtest"
)

func TestLink(t *testing.T) {
	dir := t.TempDir()
	b, _ := newBuilder(t, filepath.Join(dir, "cache"))
	bin := buildtest.Hello(t)
	bin.Links = []string{"hi", "hey"}
	nodes := filepath.Join(dir, "a", "bin")
	if err := b.Link(t.Context(), nodes, bin); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hello", "hi", "hey"} {
		if got := run(t, filepath.Join(nodes, name)); got != "hello world" {
			t.Errorf("%s printed %q", name, got)
		}
	}
	path, _ := b.Binary(t.Context(), bin)
	if !linked(path, filepath.Join(nodes, "hello")) {
		t.Error("it was copied on one file system")
	}
	// New source replaces what is linked, and what is linked already is left alone.
	before, _ := os.Lstat(filepath.Join(nodes, "hi"))
	if err := os.WriteFile(filepath.Join(bin.Dir, "main.go"), []byte("package main\n\nfunc main() { println(\"new\") }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := b.Link(t.Context(), nodes, bin); err != nil {
		t.Fatal(err)
	}
	if got := run(t, filepath.Join(nodes, "hi")); got != "new" {
		t.Errorf("after a change it printed %q", got)
	}
	if after, _ := os.Lstat(filepath.Join(nodes, "hi")); !os.SameFile(before, after) {
		t.Error("a link that was right was made again")
	}
	if entries, _ := os.ReadDir(nodes); len(entries) != 3 {
		t.Errorf("folder holds %v", entries)
	}
}

func TestLinkOrCopyToAnotherFileSystem(t *testing.T) {
	if a, b := deviceOf(t, t.TempDir()), deviceOf(t, "/dev/shm"); a == b {
		t.Skip("/dev/shm is no file system of its own here")
	}
	to, err := os.MkdirTemp("/dev/shm", "orrery-test-")
	if err != nil {
		t.Skip("cannot write to /dev/shm")
	}
	defer os.RemoveAll(to)
	b, _ := newBuilder(t, t.TempDir())
	bin := buildtest.Hello(t)
	for range 2 {
		if err := b.Link(t.Context(), to, bin); err != nil {
			t.Fatal(err)
		}
	}
	path, _ := b.Binary(t.Context(), bin)
	if !linked(path, filepath.Join(to, "hello")) {
		t.Error("the copy is not recognised: it would be copied every time")
	}
	if got := run(t, filepath.Join(to, "hello")); got != "hello world" {
		t.Errorf("it printed %q", got)
	}
}

func deviceOf(t *testing.T, dir string) uint64 {
	t.Helper()
	info, err := os.Stat(dir)
	if err != nil {
		t.Skip(err)
	}
	return info.Sys().(*syscall.Stat_t).Dev
}
