package app

import (
	"context"
	"io"
	"os"
	"os/signal"
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
