package ingest

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
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/orrery-dev/orrery/apps/pulse/internal/event"
	"github.com/orrery-dev/orrery/apps/pulse/internal/ledger"
	"github.com/orrery-dev/orrery/apps/pulse/internal/messaging"
	"github.com/orrery-dev/orrery/apps/pulse/internal/outbox"
	"github.com/orrery-dev/orrery/apps/pulse/internal/ranges"
)

// MaxEvents of one request.
const MaxEvents = 1000

// Status of an event after Send.
type Status string

// What became of an event.
const (
	Acknowledged Status = "acknowledged" // on a majority of the servers, and in the ledger
	Kept         Status = "kept"         // in the outbox of this ingest
	Refused      Status = "refused"      // nowhere: send it again
)

// Result of one event.
type Result struct {
	ID     string `json:"id"`
	Status Status `json:"status"`
	// Duplicate says that JetStream had the event already.
	Duplicate bool `json:"duplicate,omitempty"`
	// Error says why an event is not acknowledged.
	Error string `json:"error,omitempty"`
}

// Options of New.
type Options struct {
	JS     jetstream.JetStream
	Ledger *ledger.Ledger
	Outbox *outbox.Outbox
	// Producer numbers the events that come without a number. It must be another one in
	// each process: the numbers begin at 1.
	Producer string
	// AckTimeout is how long an acknowledgement is waited for; default 5 s.
	AckTimeout time.Duration
	Log        *slog.Logger
}

// Ingest is safe for concurrent use. Run must run.
type Ingest struct {
	Options
	recorder *recorder
	sequence atomic.Uint64
	metrics  metrics
	tracer   trace.Tracer
}

// New makes an ingest.
func New(o Options) (*Ingest, error) {
	if o.AckTimeout == 0 {
		o.AckTimeout = 5 * time.Second
	}
	m, err := newMetrics(o.Outbox)
	if err != nil {
		return nil, err
	}
	return &Ingest{Options: o, metrics: m, tracer: otel.Tracer(scope), recorder: newRecorder(o.Ledger, m, o.Log)}, nil
}

// Number gives an event without a producer the next number of this ingest.
func (i *Ingest) Number(e *event.Event) {
	if e.Producer == "" {
		e.Producer, e.Sequence = i.Producer, i.sequence.Add(1)
	}
}

// Send publishes events and returns, in their order, what became of each. It does not
// end early with ctx: what is under way is worth knowing the end of.
func (i *Ingest) Send(ctx context.Context, events []event.Event) []Result {
	ctx = context.WithoutCancel(ctx)
	results := make([]Result, len(events))
	errs := i.publish(ctx, events, results)
	var failed []event.Event
	var at []int
	for n, err := range errs {
		switch {
		case err == nil:
			results[n].Status = Acknowledged
		case errors.Is(err, ledger.ErrSparse):
			results[n].Status, results[n].Error = Refused, err.Error()
		default:
			results[n].Error = err.Error()
			failed, at = append(failed, events[n]), append(at, n)
		}
	}
	if len(failed) == 0 {
		return results
	}
	status := Kept
	if err := i.Outbox.Put(failed...); err != nil {
		i.Log.ErrorContext(ctx, "events are refused", "events", len(failed), "error", err)
		status = Refused
		for _, n := range at {
			results[n].Error += "; " + err.Error()
		}
	} else {
		i.Log.WarnContext(ctx, "events are not acknowledged and kept in the outbox", "events", len(failed), "first", failed[0].ID(), "error", results[at[0]].Error)
	}
	for _, n := range at {
		results[n].Status = status
	}
	return results
}

// publish sends events, waits for the acknowledgements and records them. It returns an
// error per event that is not acknowledged.
func (i *Ingest) publish(ctx context.Context, events []event.Event, results []Result) []error {
	errs := make([]error, len(events))
	futures := make([]jetstream.PubAckFuture, len(events))
	spans := make([]trace.Span, len(events))
	sent := map[string]ranges.Set{}
	started := time.Now()
	for n, e := range events {
		results[n].ID = e.ID()
		if errs[n] = i.Ledger.Sparse(ctx, e.Producer, e.Sequence); errs[n] != nil {
			continue
		}
		s := sent[e.Producer]
		s.Add(e.Sequence)
		sent[e.Producer] = s
		var sendCtx context.Context
		sendCtx, spans[n] = i.tracer.Start(ctx, "send "+messaging.Stream, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
			attribute.String("messaging.system", "nats"), attribute.String("messaging.operation.name", "send"),
			attribute.String("messaging.destination.name", messaging.Stream), attribute.String("messaging.message.id", e.ID()),
		))
		m := e.Message()
		messaging.Inject(sendCtx, m.Header)
		futures[n], errs[n] = i.JS.PublishMsgAsync(m)
	}
	timeout := time.NewTimer(i.AckTimeout)
	defer timeout.Stop()
	acked := map[string]ranges.Set{}
	for n, future := range futures {
		if errs[n] != nil {
			continue
		}
		var ack *jetstream.PubAck
		select {
		case ack = <-future.Ok():
		case errs[n] = <-future.Err():
		case <-timeout.C:
			timeout.Reset(0) // for those after this one
			errs[n] = fmt.Errorf("JetStream has not acknowledged it for %s", i.AckTimeout)
		}
		if ack == nil {
			continue
		}
		results[n].Duplicate = ack.Duplicate
		if ack.Duplicate {
			i.metrics.duplicates.Add(ctx, 1, i.metrics.atPublish)
		}
		s := acked[events[n].Producer]
		s.Add(events[n].Sequence)
		acked[events[n].Producer] = s
		i.metrics.publish.Record(trace.ContextWithSpan(ctx, spans[n]), time.Since(started).Seconds())
	}
	i.record(ctx, events, sent, acked, errs)
	for n, span := range spans {
		if span == nil {
			continue
		}
		if errs[n] != nil {
			span.SetStatus(codes.Error, errs[n].Error())
		}
		span.End()
	}
	return errs
}

// record writes to the ledger; an event that is not in it is not acknowledged.
func (i *Ingest) record(ctx context.Context, events []event.Event, sent, acked map[string]ranges.Set, errs []error) {
	ctx, span := i.tracer.Start(ctx, "record in the ledger")
	defer span.End()
	ctx, cancel := context.WithTimeout(ctx, i.AckTimeout)
	defer cancel()
	failures := map[string]error{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for producer, s := range sent {
		a := acked[producer]
		if a.Len() == 0 {
			i.recorder.note(producer, s)
			continue
		}
		group.Go(func() {
			if err := i.recorder.record(ctx, producer, s, a); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures[producer] = err
			}
		})
	}
	group.Wait()
	for n, e := range events {
		if err := failures[e.Producer]; err != nil && errs[n] == nil {
			errs[n] = err
			span.SetStatus(codes.Error, err.Error())
		}
	}
}

// Run records what Send acknowledges, and sends what is in the outbox, until ctx ends.
// It then tries once more to empty the outbox, for as long as last lives.
func (i *Ingest) Run(ctx, last context.Context) {
	var group sync.WaitGroup
	recorded := make(chan struct{})
	group.Go(func() { i.recorder.run(last, recorded) })
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			i.resend(ctx)
		}
	}
	i.resend(last)
	close(recorded)
	group.Wait()
	if n := i.Outbox.Len(); n > 0 {
		i.Log.Warn("events stay in the outbox for the next start", "events", n)
	}
}

// resend goes through the outbox once, or until nothing is acknowledged any more.
func (i *Ingest) resend(ctx context.Context) {
	for i.Outbox.Len() > 0 && ctx.Err() == nil && i.JS.Conn().IsConnected() {
		events, err := i.Outbox.Next(256)
		if err != nil {
			i.Log.Error("events in the outbox cannot be read", "error", err)
		}
		if len(events) == 0 {
			return
		}
		done := 0
		for n, err := range i.publish(ctx, events, make([]Result, len(events))) {
			if err != nil && !errors.Is(err, ledger.ErrSparse) {
				continue
			}
			if err := i.Outbox.Done(events[n].ID()); err != nil {
				i.Log.Error("an acknowledged event stays in the outbox", "error", err)
				continue
			}
			done++
		}
		if done == 0 {
			return
		}
		i.Log.Info("events of the outbox are acknowledged", "events", done, "left", i.Outbox.Len())
	}
}

// metrics of ingest; names in docs/reference/pulse.md.
type metrics struct {
	sent, acked, duplicates metric.Int64Counter
	atPublish               metric.MeasurementOption
	publish                 metric.Float64Histogram
}
