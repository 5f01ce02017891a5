package clangcache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the tests run the program itself.
func TestMain(m *testing.M) {
	if os.Getenv("CLANGCACHE_TEST_MAIN") != "" {
		status, err := Main(os.Args[1:])
		if err != nil {
			fmt.Fprintln(os.Stderr, "orrery:", err)
		}
		os.Exit(status)
	}
	os.Exit(m.Run())
}

// bench is a node with a clang that counts its calls, and the folder that nodes share.
type bench struct {
	t                *testing.T
	llvm, cache, src string
	env              []string
}

// newBench writes a clang that prints the fixture, after it ran the given line of shell.
func newBench(t *testing.T, line string) *bench {
	t.Helper()
	object, err := filepath.Abs("testdata/node.o")
	if err != nil {
		t.Fatal(err)
	}
	source, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, llvm: t.TempDir(), cache: t.TempDir(), src: source}
	script := "#!/bin/sh\necho \"$@\" >>" + b.llvm + "/calls\n" + line + "\ncat " + object + "\n"
	if err := os.MkdirAll(filepath.Join(b.llvm, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.llvm, "bin", "clang"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.llvm, ".sha256"), []byte(strings.Repeat("c", 64)), 0o600); err != nil {
		t.Fatal(err)
	}
	b.env = []string{"PATH=" + os.Getenv("PATH"), "CLANGCACHE_TEST_MAIN=1", "TMPDIR=" + t.TempDir(), toolchainEnv + "=" + b.llvm, cacheEnv + "=" + b.cache}
	return b
}

func (b *bench) command(args ...string) (cmd *exec.Cmd, out, said *bytes.Buffer) {
	out, said = new(bytes.Buffer), new(bytes.Buffer)
	cmd = exec.Command(os.Args[0], args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = b.env, out, said
	return cmd, out, said
}

// compile is what the agent asks for; the object must be filled in.
func (b *bench) compile() {
	b.t.Helper()
	cmd, out, said := b.command(agentArgs([]string{b.src}, b.src+"/node.c")...)
	if err := cmd.Run(); err != nil || said.Len() > 0 {
		b.t.Fatalf("%v: %s", err, said)
	}
	if !bytes.Contains(out.Bytes(), []byte{0x0a, 0xf4, 0x00, 0xd2}) || !bytes.Contains(out.Bytes(), []byte{0x69, 0x9b, 0, 0, 0, 0, 0, 0}) {
		b.t.Fatalf("the object has not the node's numbers:\n%q", out)
	}
}

func (b *bench) calls() int {
	data, _ := os.ReadFile(filepath.Join(b.llvm, "calls"))
	return bytes.Count(data, []byte("\n"))
}

func (b *bench) want(calls int, what string) {
	b.t.Helper()
	if n := b.calls(); n != calls {
		log, _ := os.ReadFile(filepath.Join(b.cache, logName))
		b.t.Fatalf("%s: clang was called %d times, want %d\n%s", what, n, calls, log)
	}
}

// entries are the objects of the cache.
func (b *bench) entries() []string {
	b.t.Helper()
	found, err := filepath.Glob(filepath.Join(b.cache, strings.Repeat("[0-9a-f]", 64)))
	if err != nil {
		b.t.Fatal(err)
	}
	return found
}

func TestHit(t *testing.T) {
	b := newBench(t, "")
	b.compile()
	b.compile()
	b.want(1, "twice the same")
	for range 2 {
		cmd, _, _ := b.command("--version")
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
	}
	b.want(2, "versions")
	b.env = append(b.env, cacheEnv+"=off")
	cmd, out, _ := b.command(agentArgs([]string{b.src}, b.src+"/node.c")...)
	if err := cmd.Run(); err != nil || !bytes.Equal(out.Bytes(), fixture(t)) {
		t.Errorf("off: %v", err)
	}
	b.want(3, "off")
}

func TestDamagedEntries(t *testing.T) {
	for name, damage := range map[string]func(data []byte) []byte{
		"empty":        func([]byte) []byte { return nil },
		"cut":          func(data []byte) []byte { return data[:len(data)-1] },
		"longer":       func(data []byte) []byte { return append(data, 0) },
		"a bit":        func(data []byte) []byte { data[len(data)/2] ^= 1; return data },
		"other object": func([]byte) []byte { return []byte(header + " 00 3\nabc") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "")
			b.compile()
			for _, e := range b.entries() {
				data, err := os.ReadFile(e)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(e, damage(data), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			b.compile()
			b.want(2, "damaged")
			b.compile()
			b.want(2, "repaired")
		})
	}
}

// An object that is whole and not what the key promises, as somebody could put it there.
func TestEntryWithoutPlaceForValues(t *testing.T) {
	b := newBench(t, "")
	b.compile()
	if err := (cache{b.cache}).put(filepath.Base(b.entries()[0]), []byte("whole and wrong")); err != nil {
		t.Fatal(err)
	}
	cmd, out, _ := b.command(agentArgs([]string{b.src}, b.src+"/node.c")...)
	if err := cmd.Run(); err != nil || !bytes.Equal(out.Bytes(), fixture(t)) {
		t.Errorf("it must be left to clang: %v", err)
	}
}

func TestConcurrent(t *testing.T) {
	b := newBench(t, "sleep 0.3")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			cmd, out, said := b.command(agentArgs([]string{b.src}, b.src+"/node.c")...)
			if err := cmd.Run(); err != nil || !bytes.Contains(out.Bytes(), []byte{0x0a, 0xf4, 0x00, 0xd2}) {
				t.Errorf("%v: %s", err, said)
			}
		})
	}
	all.Wait()
	b.want(1, "eight nodes at once")
}

func TestFailure(t *testing.T) {
	b := newBench(t, "echo 'a.c:1: error: no' >&2; echo half; exit 3")
	for i := range 2 {
		cmd, out, said := b.command(agentArgs([]string{b.src}, b.src+"/node.c")...)
		err := cmd.Run()
		var failed *exec.ExitError
		if !errors.As(err, &failed) || failed.ExitCode() != 3 || out.String() != "half\n" || said.String() != "a.c:1: error: no\n" {
			t.Errorf("%v, %q, %q", err, out, said)
		}
		b.want(2*(i+1), "a failure is asked again, with the arguments as they came")
	}
	if len(b.entries()) != 0 {
		t.Error("a failure was kept")
	}
}

func TestWarning(t *testing.T) {
	b := newBench(t, "echo 'a.c:1: warning: hm' >&2")
	cmd, _, said := b.command(agentArgs([]string{b.src}, b.src+"/node.c")...)
	if err := cmd.Run(); err != nil || said.String() != "a.c:1: warning: hm\n" || len(b.entries()) != 0 {
		t.Errorf("%v, %q: a warning must reach who asked, and nothing be kept", err, said)
	}
}

func TestForeignCall(t *testing.T) {
	b := newBench(t, "")
	cmd, out, _ := b.command("-E", "x.c")
	if err := cmd.Run(); err != nil || !bytes.Equal(out.Bytes(), fixture(t)) || len(b.entries()) != 0 {
		t.Errorf("%v", err)
	}
	if data, _ := os.ReadFile(filepath.Join(b.llvm, "calls")); string(data) != "-E x.c\n" {
		t.Errorf("clang got %q", data)
	}
}

func TestKilled(t *testing.T) {
	b := newBench(t, "echo $$ >"+t.TempDir()+"/pid; sleep 60")
	cmd, _, _ := b.command(agentArgs([]string{b.src}, b.src+"/node.c")...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for b.calls() == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if len(b.entries()) != 0 {
		t.Error("something was kept")
	}
	// The lock went away with it.
	unlock, err := cache{b.cache}.lock(lockName(t, b))
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func lockName(t *testing.T, b *bench) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(b.cache, "*.lock"))
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	return strings.TrimSuffix(filepath.Base(found[0]), ".lock")
}

// A cache that cannot be written to costs time and nothing else.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts a small file system: run it as root")
	}
	b := newBench(t, "")
	// The first page of it is the log's.
	if err := syscall.Mount("tmpfs", b.cache, "tmpfs", 0, "size=4k"); err != nil {
		t.Skip("cannot mount: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(b.cache, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(b.cache, "other"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	b.compile()
	b.compile()
	b.want(2, "nothing is kept")
	if left, _ := filepath.Glob(filepath.Join(b.cache, ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := syscall.Mount("", b.cache, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	b.compile()
	b.want(3, "read-only")
}

func TestNoCompiler(t *testing.T) {
	b := newBench(t, "")
	b.env = append(b.env, toolchainEnv+"="+t.TempDir(), "PATH="+t.TempDir())
	cmd, _, said := b.command("--version")
	if err := cmd.Run(); err == nil || !strings.Contains(said.String(), "orrery doctor") {
		t.Errorf("%v: %s", err, said)
	}
}

func TestHostCompiler(t *testing.T) {
	b := newBench(t, "")
	dir := t.TempDir()
	if err := os.Symlink(os.Args[0], filepath.Join(dir, "clang")); err != nil { // ourselves, which must not be taken
		t.Fatal(err)
	}
	b.env = append(b.env, toolchainEnv+"="+t.TempDir(), "PATH="+dir+":"+filepath.Join(b.llvm, "bin")+":"+os.Getenv("PATH"))
	b.compile()
	b.compile()
	b.want(3, "once for the object, and twice for the version that is part of the key")
}

func TestEvict(t *testing.T) {
	c := cache{t.TempDir()}
	names := []string{strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)}
	for i, n := range names {
		if err := c.put(n, []byte(n)); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(c.path(n), maxCache/3); err != nil { // sparse
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(i-10) * time.Minute)
		if err := os.Chtimes(c.path(n), at, at); err != nil {
			t.Fatal(err)
		}
	}
	c.evict(maxCache / 3)
	for i, n := range names {
		if _, err := os.Stat(c.path(n)); errors.Is(err, fs.ErrNotExist) != (i == 0) {
			t.Errorf("entry %d: %v; the oldest has to go, and no other", i, err)
		}
	}
	// What a killed process began, and locks of long ago.
	for _, n := range []string{".new-1", names[0] + ".lock"} {
		write(t, c.path(n), "")
		at := time.Now().Add(-48 * time.Hour)
		if err := os.Chtimes(c.path(n), at, at); err != nil {
			t.Fatal(err)
		}
	}
	c.evict(0)
	if left, _ := os.ReadDir(c.dir); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

func TestLog(t *testing.T) {
	c := cache{t.TempDir()}
	write(t, c.path(logName), strings.Repeat("x", maxLog+1))
	c.note("hit %s", "a.c")
	data, err := os.ReadFile(c.path(logName))
	if err != nil || !strings.HasSuffix(string(data), " hit a.c\n") || len(data) > 200 {
		t.Errorf("%v: %d bytes", err, len(data))
	}
}
