package ingest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/orrery-dev/orrery/apps/pulse/internal/ledger"
	"github.com/orrery-dev/orrery/apps/pulse/internal/ranges"
)

// recorder writes to the ledger for many requests at a time: while one write is under
// way, what comes in is collected for the next.
type recorder struct {
	ledger  *ledger.Ledger
	metrics metrics
	log     *slog.Logger
	wake    chan struct{}

	mu      sync.Mutex
	pending map[string]*entry
}

// entry is what is to be written of one producer.
type entry struct {
	sent, acked ranges.Set
	awaited     bool
	done        chan struct{}
	err         error
}

func newRecorder(l *ledger.Ledger, m metrics, log *slog.Logger) *recorder {
	return &recorder{ledger: l, metrics: m, log: log, wake: make(chan struct{}, 1), pending: map[string]*entry{}}
}

func (r *recorder) add(producer string, sent, acked ranges.Set, awaited bool) *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.pending[producer]
	if e == nil {
		e = &entry{done: make(chan struct{})}
		r.pending[producer] = e
	}
	e.sent, e.acked = e.sent.Union(sent), e.acked.Union(acked)
	e.awaited = e.awaited || awaited
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return e
}

// note has something recorded at some time.
func (r *recorder) note(producer string, sent ranges.Set) { r.add(producer, sent, ranges.Set{}, false) }

// record returns once the ledger has it.
func (r *recorder) record(ctx context.Context, producer string, sent, acked ranges.Set) error {
	e := r.add(producer, sent, acked, true)
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		return fmt.Errorf("the ledger did not take it in time: %w", context.Cause(ctx))
	}
}

// run writes until stop is closed and nothing is left, or ctx ends.
func (r *recorder) run(ctx context.Context, stop <-chan struct{}) {
	for {
		select {
		case <-r.wake:
			r.write(ctx)
		case <-stop:
			r.write(ctx)
			return
		case <-ctx.Done():
			return
		}
	}
}

func (r *recorder) write(ctx context.Context) {
	r.mu.Lock()
	batch := r.pending
	r.pending = map[string]*entry{}
	r.mu.Unlock()
	var group sync.WaitGroup
	slots := make(chan struct{}, 16)
	for producer, e := range batch {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			sent, acked, err := r.ledger.Intake(ctx, producer, e.sent, e.acked)
			if err != nil {
				// What was sent stays known here until it can be written; who waits is told.
				r.retain(producer, e.sent)
				r.log.Warn("the ledger is behind", "producer", producer, "error", err)
			}
			r.metrics.sent.Add(ctx, int64(sent))
			r.metrics.acked.Add(ctx, int64(acked))
			e.err = err
			close(e.done)
		})
	}
	group.Wait()
}

// retain keeps what could not be written for the next write, without causing one.
func (r *recorder) retain(producer string, sent ranges.Set) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.pending[producer]
	if e == nil {
		e = &entry{done: make(chan struct{})}
		r.pending[producer] = e
	}
	e.sent = e.sent.Union(sent)
}
