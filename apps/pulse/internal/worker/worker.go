// Package worker takes events from JetStream, makes their effect once each, and
// acknowledges them after that.
//
// The order is: write to the store, write to the ledger, acknowledge. A worker may die
// between any two of them, and the event comes again: the store then says that it has it,
// and the ledger is a set, to which it is added a second time without a difference.
//
// Newcomers start at [Worker.Run].
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/orrery-dev/orrery/apps/pulse/internal/event"
	"github.com/orrery-dev/orrery/apps/pulse/internal/ledger"
	"github.com/orrery-dev/orrery/apps/pulse/internal/messaging"
	"github.com/orrery-dev/orrery/apps/pulse/internal/store"
)

const (
	batchSize   = 128              // events of one write to the ledger
	linger      = time.Millisecond // that a batch waits for more
	concurrency = 32               // writes to the store at a time
	heartbeat   = 2 * time.Second  // of the server while there is nothing to deliver
	retryDelay  = time.Second      // before a failed event comes again
	firstWait   = 1500 * time.Millisecond
)

// Options of New.
type Options struct {
	JS     jetstream.JetStream
	Store  store.Store
	Ledger *ledger.Ledger
	Log    *slog.Logger
}

// Worker of the workers' consumer.
type Worker struct {
	Options
	metrics metrics
	tracer  trace.Tracer
	follow  *ledger.Follower
	// heard is when the server last gave a sign, in Unix nanoseconds.
	heard atomic.Int64
}

// New makes a worker.
func New(o Options) (*Worker, error) {
	w := &Worker{Options: o, tracer: otel.Tracer(scope), follow: o.Ledger.Follow()}
	var err error
	w.metrics, err = newMetrics(w.follow)
	return w, err
}

// Check says why no events are being taken; nil when they are.
func (w *Worker) Check() error {
	heard := w.heard.Load()
	if heard == 0 {
		return errors.New("the consumer is not active yet")
	}
	if silent := time.Since(time.Unix(0, heard)); silent > 4*heartbeat {
		return fmt.Errorf("nothing was heard of the consumer for %s", silent.Round(time.Second))
	}
	return nil
}

// Run takes events until ctx ends, and finishes those that it has taken, for as long as
// last lives.
func (w *Worker) Run(ctx, last context.Context) {
	var group sync.WaitGroup
	group.Go(func() { again(ctx, w.Log, "follow the ledger", w.follow.Run) })
	again(ctx, w.Log, "take events", func(ctx context.Context) error { return w.take(ctx, last) })
	group.Wait()
}

// again calls f until ctx ends.
func again(ctx context.Context, log *slog.Logger, what string, f func(context.Context) error) {
	for ctx.Err() == nil {
		err := f(ctx)
		if ctx.Err() != nil {
			return
		}
		log.Warn("cannot "+what+", trying again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryDelay):
		}
	}
}

// take events until ctx ends or the consumer fails.
func (w *Worker) take(ctx, last context.Context) error {
	lookup, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	consumer, err := w.JS.Consumer(lookup, messaging.Stream, messaging.Consumer)
	if err != nil {
		return fmt.Errorf("consumer %s of stream %s: %w", messaging.Consumer, messaging.Stream, err)
	}
	if err := w.first(ctx, last, consumer); err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(2*batchSize), jetstream.PullExpiry(10*time.Second), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	defer messages.Stop()
	for {
		// The first of a batch is waited for. A heartbeat is not handed out, but the lack
		// of two is an error; the wait is cut short to note that there was none. It must be
		// longer than two: each call of Next begins to count anew, and a request that got
		// lost while its leader changed would never be missed.
		wait, cancel := context.WithTimeout(ctx, 3*heartbeat)
		m, err := messages.Next(jetstream.NextContext(wait))
		cancel()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return w.giveBack(messages)
		case errors.Is(err, context.DeadlineExceeded):
			if w.JS.Conn().IsConnected() {
				w.heard.Store(time.Now().UnixNano())
			}
			continue
		case errors.Is(err, jetstream.ErrNoHeartbeat):
			w.Log.Warn("the consumer is silent", "error", err)
			return err
		default:
			return fmt.Errorf("consume: %w", err)
		}
		w.heard.Store(time.Now().UnixNano())
		batch := []jetstream.Msg{m}
		more, cancel := context.WithTimeout(ctx, linger)
		for len(batch) < batchSize {
			m, err := messages.Next(jetstream.NextContext(more))
			if err != nil {
				break // a real one comes again with the next batch
			}
			batch = append(batch, m)
		}
		cancel()
		w.process(last, batch)
	}
}

// first asks for events for a moment. That the consumer is known does not say that it
// delivers: only after an event, or the server's word that there is none, this worker is
// active. The long request after it would let one wait for a heartbeat or two.
func (w *Worker) first(ctx, last context.Context, consumer jetstream.Consumer) error {
	answer, err := consumer.Fetch(batchSize, jetstream.FetchMaxWait(firstWait), jetstream.FetchHeartbeat(firstWait/3))
	if err != nil {
		return fmt.Errorf("ask for events: %w", err)
	}
	for m := range answer.Messages() {
		w.heard.Store(time.Now().UnixNano())
		w.process(last, []jetstream.Msg{m})
	}
	if err := answer.Error(); err != nil {
		return fmt.Errorf("ask for events: %w", err)
	}
	w.heard.Store(time.Now().UnixNano())
	return ctx.Err()
}

// giveBack what was delivered and not looked at, so that another worker need not wait for it.
func (w *Worker) giveBack(messages jetstream.MessagesContext) error {
	messages.Drain()
	for {
		m, err := messages.Next()
		if err != nil {
			return nil
		}
		_ = m.Nak()
	}
}

// delivery is one event on its way.
type delivery struct {
	msg       jetstream.Msg
	event     event.Event
	ctx       context.Context
	span      trace.Span
	duplicate bool
	err       error
}

// process a batch: store, ledger, acknowledgement.
func (w *Worker) process(ctx context.Context, batch []jetstream.Msg) {
	deliveries := map[string][]*delivery{}
	for _, m := range batch {
		d, err := w.begin(ctx, m)
		if err != nil {
			w.metrics.refused.Add(ctx, 1)
			w.Log.ErrorContext(ctx, "a message is no event and never delivered again", "error", err)
			_ = m.TermWithReason(err.Error())
			continue
		}
		deliveries[d.event.Producer] = append(deliveries[d.event.Producer], d)
	}
	var group sync.WaitGroup
	slots := make(chan struct{}, concurrency)
	for producer, ds := range deliveries {
		group.Go(func() { w.deliver(ctx, producer, ds, slots) })
	}
	group.Wait()
}

func (w *Worker) begin(ctx context.Context, m jetstream.Msg) (*delivery, error) {
	e, err := event.Parse(m.Subject(), m.Headers(), m.Data())
	if err != nil {
		return nil, err
	}
	d := &delivery{msg: m, event: e}
	attributes := []attribute.KeyValue{
		attribute.String("messaging.system", "nats"), attribute.String("messaging.operation.name", "process"),
		attribute.String("messaging.destination.name", messaging.Stream), attribute.String("messaging.consumer.group.name", messaging.Consumer),
		attribute.String("messaging.message.id", e.ID()),
	}
	if meta, err := m.Metadata(); err == nil {
		attributes = append(attributes, attribute.Int64("messaging.nats.deliveries", int64(meta.NumDelivered)))
		if meta.NumDelivered > 1 {
			w.metrics.redelivered.Add(ctx, 1)
		}
	}
	d.ctx, d.span = w.tracer.Start(messaging.Extract(ctx, m.Headers()), "process "+messaging.Stream,
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attributes...))
	return d, nil
}

// deliver the events of one producer.
func (w *Worker) deliver(ctx context.Context, producer string, ds []*delivery, slots chan struct{}) {
	known, err := w.Ledger.Delivered(ctx, producer)
	if err != nil {
		w.finish(ds, err)
		return
	}
	var group sync.WaitGroup
	for _, d := range ds {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if d.duplicate = known.Has(d.event.Sequence); d.duplicate {
				return
			}
			ctx, span := w.tracer.Start(d.ctx, "put", trace.WithSpanKind(trace.SpanKindClient),
				trace.WithAttributes(attribute.String("db.system.name", "nats.kv"), attribute.String("db.collection.name", messaging.EventBucket)))
			defer span.End()
			var created bool
			if created, d.err = w.Store.Put(ctx, d.event); d.err != nil {
				span.SetStatus(codes.Error, d.err.Error())
			}
			d.duplicate = !created
		})
	}
	group.Wait()

	var sum ledger.Delivery
	var written []*delivery
	now := time.Now()
	for _, d := range ds {
		if d.err != nil {
			w.finish([]*delivery{d}, d.err)
			continue
		}
		written = append(written, d)
		// Duplicates go into the set too: whoever made the effect may have died before
		// it could say so.
		if !sum.Delivered.Add(d.event.Sequence) {
			d.duplicate = true // twice in one batch
		}
		if d.duplicate {
			sum.Duplicates++
		} else {
			sum.Observe(max(0, now.Sub(d.event.Created).Seconds()))
		}
	}
	if len(written) == 0 {
		return
	}
	fresh, err := w.Ledger.Deliver(ctx, producer, sum)
	if err == nil {
		w.count(written, now, fresh, sum.Duplicates)
	}
	w.finish(written, err)
}

// count what the ledger has taken.
func (w *Worker) count(ds []*delivery, now time.Time, fresh, duplicates uint64) {
	ctx := context.Background()
	w.metrics.delivered.Add(ctx, int64(fresh))
	w.metrics.duplicates.Add(ctx, int64(duplicates), w.metrics.atDelivery)
	for _, d := range ds {
		if !d.duplicate {
			w.metrics.latency.Record(d.ctx, max(0, now.Sub(d.event.Created).Seconds()))
		}
	}
}

// finish acknowledges, or has the server deliver again what failed.
func (w *Worker) finish(ds []*delivery, err error) {
	for _, d := range ds {
		switch {
		case err == nil:
			w.Log.DebugContext(d.ctx, "event delivered", "id", d.event.ID(), "duplicate", d.duplicate)
			d.span.SetAttributes(attribute.Bool("pulse.duplicate", d.duplicate))
			err := d.msg.Ack()
			if err != nil { // it comes again, as a duplicate
				d.span.SetStatus(codes.Error, err.Error())
			}
		case errors.Is(err, ledger.ErrSparse):
			w.metrics.refused.Add(d.ctx, 1)
			w.Log.ErrorContext(d.ctx, "an event is refused for good", "id", d.event.ID(), "error", err)
			d.span.SetStatus(codes.Error, err.Error())
			_ = d.msg.TermWithReason(err.Error())
		default:
			w.Log.WarnContext(d.ctx, "an event is not delivered yet", "id", d.event.ID(), "error", err)
			d.span.SetStatus(codes.Error, err.Error())
			_ = d.msg.NakWithDelay(retryDelay)
		}
		d.span.End()
	}
}
