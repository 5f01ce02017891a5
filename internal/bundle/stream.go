package bundle

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/ui"
)

// copyBuffer is what one worker copies at a time, in bytes.
const copyBuffer = 1 << 20

// flushEvery is how much is written before the kernel is asked to begin with it, in bytes:
// the final fsync then has little left to wait for.
const flushEvery = 8 << 20

// flusher writes to a place in a file and starts the writing back early.
type flusher struct {
	f           *os.File
	at, flushed int64 // flushed counts from the first byte
	n           int64
}

func (w *flusher) Write(p []byte) (int, error) {
	n, err := w.f.WriteAt(p, w.at)
	w.at += int64(n)
	w.n += int64(n)
	if w.n-w.flushed >= flushEvery {
		beginWriting(w.f, w.at-(w.n-w.flushed), w.n-w.flushed)
		w.flushed = w.n
	}
	return n, err
}

// cancellable is a reader that ends with its context.
type cancellable struct {
	ctx context.Context
	io.Reader
}

func (r cancellable) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}

// meter counts bytes and tells the sink, a few times a second, how far it is.
type meter struct {
	sink        ui.Sink
	step        string
	total       int64
	mu          sync.Mutex
	done        int64
	start, last time.Time
}

func newMeter(sink ui.Sink, verb string, total int64) *meter {
	if sink == nil {
		sink = ui.Discard
	}
	now := time.Now()
	return &meter{sink: sink, step: "bundle/" + verb, total: total, start: now, last: now}
}

// Write never fails.
func (m *meter) Write(p []byte) (int, error) {
	m.add(int64(len(p)))
	return len(p), nil
}

func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += n
	if now := time.Now(); now.Sub(m.last) >= 200*time.Millisecond {
		m.last = now
		m.emit(now)
	}
}

func (m *meter) finish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.emit(time.Now())
}

func (m *meter) emit(now time.Time) {
	spent := now.Sub(m.start).Seconds()
	e := ui.Event{Time: now, Type: ui.TypeProgress, Step: m.step, Phase: "build", Done: float64(m.done), Total: float64(m.total), Unit: "bytes"}
	if m.done > 0 && spent > 0 {
		e.Message = fmt.Sprintf("%.0f of %.0f MB, %.0f MB/s", float64(m.done)/1e6, float64(m.total)/1e6, float64(m.done)/1e6/spent)
		e.ETA = spent / float64(m.done) * float64(max(0, m.total-m.done))
	}
	m.sink.Emit(e)
}

func encodeSignature(sig []byte) string { return base64.StdEncoding.EncodeToString(sig) }

// full says what to do about a disk that is full.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: make room and run it again", err)
	}
	return err
}
