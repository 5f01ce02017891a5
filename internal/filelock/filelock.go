package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
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
		// Whoever can open a file can lock it, for reading too: nobody else may.
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if st, err := f.Stat(); err == nil && st.Mode().Perm()&0o077 != 0 { // made by an older orrery
			_ = f.Chmod(0o600)
		}
		if err := flock(f, how|unix.LOCK_NB); err != nil {
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

// flock is tried again when a signal breaks into it.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
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

// How long [Wait] waits: for a stranger, who has no business with the lock, and for our own,
// who may be compiling.
var (
	strangerPatience = 10 * time.Second
	patience         = 2 * time.Hour
)

// HeldError says who holds a lock that was waited for in vain. It is an [ErrLocked].
type HeldError struct {
	Path    string
	Holders []Holder // as far as they can be seen
}

func (e *HeldError) Error() string {
	if len(e.Holders) == 0 {
		return fmt.Sprintf("%s is locked by a process that cannot be seen here, and has been for too long", e.Path)
	}
	var who []string
	for _, h := range e.Holders {
		who = append(who, h.String())
	}
	return fmt.Sprintf("%s is locked by %s, and has been for too long: end it, and run the command again", e.Path, strings.Join(who, ", "))
}

// Is reports that it is an [ErrLocked].
func (e *HeldError) Is(target error) bool { return target == ErrLocked }

// Wait is [Try] that waits, and says so once through waiting, which may be nil. It returns
// the cause of ctx when that ends first, and a [*HeldError] when a process of another user
// holds the lock, or anybody for longer than anything takes.
func Wait(ctx context.Context, path string, how int, waiting func()) (*os.File, error) {
	// flock cannot be cancelled, so it is tried again and again.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	look := began.Add(strangerPatience)
	for {
		f, err := Try(path, how)
		if !errors.Is(err, ErrLocked) {
			return f, err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		if now := time.Now(); now.After(look) {
			look = now.Add(strangerPatience)
			holders := Holders(path)
			if now.Sub(began) > patience || slices.ContainsFunc(holders, Holder.stranger) {
				return nil, &HeldError{path, holders}
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
