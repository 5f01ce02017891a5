package mirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// ErrBusy is wrapped by errors of [Writes.Hold]: somebody goes on pushing, or holds writes already.
var ErrBusy = errors.New("the mirror is being written to")

// Writes are the requests to a [Gate] that are part of pushes. Its zero value is ready.
type Writes struct {
	mu       sync.Mutex
	underway int
	last     time.Time     // when one ended
	changed  chan struct{} // closed when the last one ends, or a hold does
	held     bool
}

// pushes: it changes the registry, or asks what need not be sent because it is there: blobs, and the
// manifests that an index names, whose absence the registry would not see.
func pushes(r *http.Request) bool { return !reads(r) || r.Method == http.MethodHead }

// begin waits for a hold to end.
func (w *Writes) begin(ctx context.Context) error {
	for {
		w.mu.Lock()
		if !w.held {
			w.underway++
			w.mu.Unlock()
			return nil
		}
		changed := w.wait()
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (w *Writes) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.underway--
	w.last = time.Now()
	w.wake()
}

// wait and wake are called with the lock.
func (w *Writes) wait() chan struct{} {
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return w.changed
}

func (w *Writes) wake() {
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

// Hold waits until nothing was written for quiet, so that no push is in the middle, and has writes
// wait until release is called. When ctx ends before that, the error wraps [ErrBusy].
func (w *Writes) Hold(ctx context.Context, quiet time.Duration) (release func(), err error) {
	for {
		w.mu.Lock()
		left := quiet - time.Since(w.last)
		if w.underway == 0 && !w.held && left <= 0 {
			w.held = true
			w.mu.Unlock()
			return sync.OnceFunc(func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.held = false
				w.wake()
			}), nil
		}
		changed := w.wait()
		if w.underway > 0 || w.held {
			left = time.Hour // until it changes
		}
		w.mu.Unlock()
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
		}
		timer.Stop()
	}
}
