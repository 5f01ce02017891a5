package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary plays the misbehaving child.
func TestMain(m *testing.M) {
	switch os.Getenv("PROC_TEST_CHILD") {
	case "fail":
		fmt.Fprint(os.Stderr, strings.Repeat("x", 10000), "\nthe reason\n")
		os.Exit(3)
	case "stubborn": // ignores SIGTERM and has a child that does so too
		signal.Ignore(syscall.SIGTERM)
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "PROC_TEST_CHILD=deaf")
		c.Stdout = os.Stdout
		if err := c.Start(); err != nil {
			os.Exit(9)
		}
		fmt.Println(c.Process.Pid)
		time.Sleep(time.Minute)
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Minute)
	case "service": // becomes another process, and should take nothing along
		fmt.Println(ExecService("/proc/self/exe", os.Args[:1], []string{"PROC_TEST_CHILD=show"}))
		os.Exit(9)
	case "show":
		show()
	case "kept":
		fmt.Println(strings.Join(Kept(), "\n"))
	case "":
		goleak.VerifyTestMain(m)
	}
	os.Exit(0)
}

func child(mode string) *Cmd {
	return &Cmd{Path: os.Args[0], Env: append(os.Environ(), "PROC_TEST_CHILD="+mode)}
}

func TestRunCarriesTheEndOfStderr(t *testing.T) {
	err := Run(t.Context(), child("fail"))
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want *Error", err)
	}
	if e.Code != 3 || !strings.HasSuffix(e.Stderr, "the reason") || len(e.Stderr) > 4<<10 {
		t.Errorf("code %d, %d bytes of stderr", e.Code, len(e.Stderr))
	}
}

func TestRunMissingProgram(t *testing.T) {
	err := Run(t.Context(), &Cmd{Path: "no-such-program-of-ours"})
	if !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

type lines chan string

func (l lines) Write(p []byte) (int, error) { l <- strings.TrimSpace(string(p)); return len(p), nil }

func TestCancelEndsTheWholeGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := make(lines, 1)
	c := child("stubborn")
	c.Stdout, c.Grace = out, 50*time.Millisecond
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c) }()
	pid, err := strconv.Atoi(<-out)
	if err != nil {
		t.Fatal(err)
	}
	grandchild, err := Of(pid)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	wait, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if err := grandchild.Wait(wait); err != nil {
		t.Errorf("grandchild lives: %v", err)
	}
}

func TestIdentity(t *testing.T) {
	self, err := Self()
	if err != nil || !self.Alive() {
		t.Fatalf("self: %v %v", self, err)
	}
	other := self
	other.Start++
	if other.Alive() {
		t.Error("a process with another start time counts as the same")
	}
	if err := other.Signal(syscall.SIGKILL); !errors.Is(err, ErrGone) {
		t.Errorf("signal to a reused PID: %v", err)
	}
	if err := (Identity{}).Signal(syscall.SIGKILL); !errors.Is(err, ErrGone) {
		t.Errorf("signal to nobody: %v", err)
	}
	x := exec.Command(os.Args[0])
	x.Env = append(os.Environ(), "PROC_TEST_CHILD=deaf")
	if err := x.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := Of(x.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := id.End(t.Context(), syscall.SIGTERM, 20*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if id.Alive() { // a zombie still, nobody has waited
		t.Error("a zombie counts as alive")
	}
	_ = x.Wait()
}

func TestParseStat(t *testing.T) {
	ok := "12 (a) R) x) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1 1"
	if st, start, err := parseStat([]byte(ok)); err != nil || st != 'S' || start != 777 {
		t.Errorf("got %c %d %v", st, start, err)
	}
	for _, bad := range []string{"", "12 (a S 1", "12 (a) S 1 2"} {
		if _, _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestCPU(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	wait, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	for now := before; now < before+50*time.Millisecond && wait.Err() == nil; {
		if now, err = CPU(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if wait.Err() != nil {
		t.Error("a busy process has no processor time")
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (a) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 777 1 1"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _, _ = parseStat(b) })
}
