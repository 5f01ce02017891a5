package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked is returned by [Try] when somebody else holds the lock.
var ErrLocked = errors.New("locked by another process")

// How a lock is held.
const (
	Shared    = unix.LOCK_SH
	Exclusive = unix.LOCK_EX
)

// Try takes an advisory lock, flock(2), without waiting. It goes away with the
// process, however that ends. Closing the file releases it.
func Try(path string, how int) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, ErrLocked
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// The holder before us may have removed the file: then ours is nobody else's.
		if same, err := sameFile(f, path); err == nil && same {
			return f, nil
		}
		f.Close()
	}
}

func sameFile(f *os.File, path string) (bool, error) {
	mine, err := f.Stat()
	if err != nil {
		return false, err
	}
	now, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	return os.SameFile(mine, now), nil
}

// Wait is [Try] that waits, and says so once through waiting, which may be nil. It returns
// the cause of ctx when that ends first.
func Wait(ctx context.Context, path string, how int, waiting func()) (*os.File, error) {
	// flock cannot be cancelled, so it is tried again and again.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := Try(path, how)
		if !errors.Is(err, ErrLocked) {
			return f, err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
