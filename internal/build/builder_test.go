package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/build/buildtest"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/ui"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newBuilder opens a cache in dir, whose Go build cache is the developer's own.
func newBuilder(t testing.TB, dir string) (*Builder, *buildtest.Recorder) {
	t.Helper()
	buildtest.Cache(t, dir)
	r := &buildtest.Recorder{}
	b, err := NewBuilder(Options{CacheDir: dir, Sink: r})
	if err != nil {
		t.Fatal(err)
	}
	return b, r
}

// countingGo puts a go command in front of PATH that appends a line to the returned file
// for each `go build`, and runs script before it.
func countingGo(t *testing.T, script string) (log string) {
	t.Helper()
	real, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	log = filepath.Join(dir, "builds")
	text := fmt.Sprintf("#!/bin/sh\nif [ \"$1\" = build ]; then echo build >> %s\n%s\nfi\nexec %s \"$@\"\n", log, script, real)
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return log
}

func builds(t *testing.T, log string) int {
	t.Helper()
	data, err := os.ReadFile(log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count(string(data), "build")
}

func run(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command(path).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", path, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestBinaryIsBuiltOnce(t *testing.T) {
	log := countingGo(t, "sleep 0.3")
	dir := t.TempDir()
	bin := buildtest.Hello(t)
	bin.LDFlags = "-X main.who=you"
	// Two builders are two processes, as far as locks go.
	one, events := newBuilder(t, dir)
	two, _ := newBuilder(t, dir)
	if ok, err := one.Cached(t.Context(), bin); ok || err != nil {
		t.Fatalf("Cached before = %v, %v", ok, err)
	}
	var all errgroup.Group
	for i := range 8 {
		all.Go(func() error {
			_, err := []*Builder{one, two}[i%2].Binary(t.Context(), bin)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := builds(t, log); n != 1 {
		t.Errorf("go build ran %d times, want once", n)
	}
	path, err := two.Binary(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, path); got != "hello you" {
		t.Errorf("it printed %q", got)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o555 {
		t.Errorf("mode %v, want 0555: its inode is shared with nodes", info.Mode())
	}
	if m, ok := one.Measured(t.Context(), bin); !ok || m.CPUSeconds <= 0 || m.Size == 0 {
		t.Errorf("Measured = %+v, %v", m, ok)
	}
	if len(events.Messages(ui.TypeProgress)) == 0 {
		t.Error("no progress was told")
	}
	for _, sub := range []string{".tmp", ".lock"} {
		if left, _ := os.ReadDir(filepath.Join(dir, "bin", sub)); len(left) != 0 {
			t.Errorf("%s left: %v", sub, left)
		}
	}
}

func TestBinaryIsReproducible(t *testing.T) {
	bin := buildtest.Hello(t)
	var sums []string
	for range 2 {
		b, _ := newBuilder(t, t.TempDir())
		// The same source in another place.
		copied := bin
		copied.Dir = buildtest.Module(t, map[string]string{})
		if err := os.CopyFS(copied.Dir, os.DirFS(bin.Dir)); err != nil {
			t.Fatal(err)
		}
		path, err := b.Binary(t.Context(), copied)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := disk.SHA256(path)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, sum)
	}
	if sums[0] != sums[1] {
		t.Errorf("two folders, two binaries: %v", sums)
	}
}

func TestCancelLeavesNothing(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	countingGo(t, "sleep 1000 & echo $! > "+pidFile+"; wait")
	dir := t.TempDir()
	b, _ := newBuilder(t, dir)
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	done := make(chan error, 1)
	go func() {
		_, err := b.Binary(ctx, buildtest.Hello(t))
		done <- err
	}()
	var pid int
	for deadline := time.Now().Add(20 * time.Second); pid == 0; {
		data, _ := os.ReadFile(pidFile)
		fmt.Sscan(string(data), &pid)
		if time.Now().After(deadline) {
			t.Fatal("the build did not start")
		}
		time.Sleep(5 * time.Millisecond)
	}
	began := time.Now()
	cancel(interrupted)
	if err := <-done; !errors.Is(err, interrupted) {
		t.Errorf("error %v, want the cause", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("cancelling took %v", took)
	}
	for deadline := time.Now().Add(5 * time.Second); syscall.Kill(pid, 0) == nil; {
		if state, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); strings.Contains(string(state), ") Z ") {
			break // dead, and not ours to reap
		}
		if time.Now().After(deadline) {
			t.Fatalf("a child of the build lives on as %d", pid)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "bin", ".tmp")); len(left) != 0 {
		t.Errorf("left in .tmp: %v", left)
	}
}

// One caller's cancellation is not the others'.
func TestCancelOfOneCaller(t *testing.T) {
	log := countingGo(t, "sleep 0.5")
	b, _ := newBuilder(t, t.TempDir())
	bin := buildtest.Hello(t)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := b.Binary(ctx, bin)
		first <- err
	}()
	for builds(t, log) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	second := make(chan error, 1)
	go func() {
		_, err := b.Binary(t.Context(), bin)
		second <- err
	}()
	time.Sleep(20 * time.Millisecond) // so that it most likely has joined the first
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("second: %v", err)
	}
}

// A process that is killed while it builds leaves a folder, which the next one removes,
// and nothing that looks like a binary.
func TestKilledBuildIsSweptUp(t *testing.T) {
	dir, started := os.Getenv("ORRERY_TEST_KILLED"), os.Getenv("ORRERY_TEST_STARTED")
	if dir != "" { // the process that is killed
		countingGo(t, "touch "+started+"; exec sleep 1000")
		b, _ := newBuilder(t, dir)
		_, err := b.Binary(t.Context(), buildtest.Hello(t))
		t.Fatal(err)
	}
	dir, started = t.TempDir(), filepath.Join(t.TempDir(), "started")
	victim := exec.Command(os.Args[0], "-test.run=^TestKilledBuildIsSweptUp$")
	victim.Env = append(os.Environ(), "ORRERY_TEST_KILLED="+dir, "ORRERY_TEST_STARTED="+started)
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(started); err == nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	left := func() int {
		entries, _ := os.ReadDir(filepath.Join(dir, "bin", ".tmp"))
		return len(entries)
	}
	newBuilder(t, dir)
	if left() != 1 {
		t.Errorf("%d builds under way, want 1: that of a live process is not ours to remove", left())
	}
	victim.Process.Kill()
	victim.Wait()
	b, _ := newBuilder(t, dir)
	if left() != 0 {
		t.Errorf("%d builds under way, want 0: its process is dead", left())
	}
	bin := buildtest.Hello(t)
	path, err := b.Binary(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, path); got != "hello world" {
		t.Errorf("it printed %q", got)
	}
}
