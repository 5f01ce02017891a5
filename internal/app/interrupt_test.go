package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A terminal that closes is an interruption, and shells may say so twice.
func TestHangUpCleansUp(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("this process was started with SIGHUP ignored")
	}
	// A signal that is still on its way when nobody listens any more would end the tests.
	arrived := make(chan os.Signal, 2)
	signal.Notify(arrived, syscall.SIGHUP)
	defer signal.Stop(arrived)
	ctx, stop := interruptible(io.Discard)
	defer stop()
	for range 2 {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for _, wait := range []func() bool{
			func() bool { return signalled(arrived) },
			func() bool { return ended(ctx) },
		} {
			if !wait() {
				t.Fatal("nothing was interrupted")
			}
		}
	}
	if err := interruptedBy(context.Cause(ctx), context.Cause(ctx)); exitCode(err, io.Discard) != exitInterrupted || !strings.Contains(err.Error(), "SIGHUP") {
		t.Errorf("what cancelled it: %v", err)
	}
}

// Whatever a verb makes of being cancelled, its last words say by what.
func TestInterruptionIsNamed(t *testing.T) {
	other := errors.New("no such file")
	for _, c := range []struct {
		cause, err error
		says       string
	}{
		{interruption{syscall.SIGHUP}, context.Canceled, "interrupted: the terminal was closed (SIGHUP)"},
		{interruption{syscall.SIGHUP}, fmt.Errorf("start x: %w", context.Canceled), "(SIGHUP): start x"},
		{interruption{syscall.SIGINT}, fmt.Errorf("y: %w", interruption{syscall.SIGINT}), "y: interrupted (Ctrl-C)"},
		{interruption{syscall.SIGTERM}, other, "no such file"},
		{nil, other, "no such file"},
		{interruption{syscall.SIGTERM}, nil, ""},
	} {
		err := interruptedBy(c.cause, c.err)
		if (err == nil) != (c.err == nil) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v of %v: %v, want %q", c.err, c.cause, err, c.says)
		}
		if err != nil && errors.Is(c.err, context.Canceled) != errors.Is(err, context.Canceled) {
			t.Errorf("%v: is it an interruption?", err)
		}
	}
}

func signalled(c <-chan os.Signal) bool {
	select {
	case <-c:
		return true
	case <-time.After(10 * time.Second):
		return false
	}
}

func ended(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	case <-time.After(10 * time.Second):
		return false
	}
}
