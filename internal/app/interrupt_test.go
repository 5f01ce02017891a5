package app

import (
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
	ctx, stop := interruptible(io.Discard)
	defer stop()
	for range 2 {
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("nothing was interrupted")
		}
	}
}
