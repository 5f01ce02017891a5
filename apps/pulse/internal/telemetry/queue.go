package telemetry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/trace"
)

const (
	queueSize  = 4096            // spans that wait at most
	batchSize  = 512             // spans of one call
	batchDelay = 1 * time.Second // that a span waits for others
)

// queue is a span processor that says what became of every span. The SDK's own batcher
// tells its losses to an experimental metric only.
type queue struct {
	exporter trace.SpanExporter
	spans    chan trace.ReadOnlySpan
	flush    chan chan struct{}
	stop     chan struct{}
	done     chan struct{}
	once     sync.Once

	outcomes                  metric.Int64Counter
	exported, failed, dropped metric.MeasurementOption
}

func newQueue(exporter trace.SpanExporter, size int) (*queue, error) {
	outcomes, err := otel.Meter("github.com/orrery-dev/orrery/apps/pulse/internal/telemetry").Int64Counter("pulse.spans",
		metric.WithDescription("Spans by what became of them: exported, failed (nobody took them) or dropped (the queue was full)."), metric.WithUnit("{span}"))
	if err != nil {
		return nil, fmt.Errorf("metric of spans: %w", err)
	}
	outcome := func(text string) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", text)))
	}
	q := &queue{
		exporter: exporter,
		spans:    make(chan trace.ReadOnlySpan, size),
		flush:    make(chan chan struct{}),
		stop:     make(chan struct{}),
		done:     make(chan struct{}),
		outcomes: outcomes, exported: outcome("exported"), failed: outcome("failed"), dropped: outcome("dropped"),
	}
	// From the start, so that a rate has something to begin at.
	for _, o := range []metric.MeasurementOption{q.exported, q.failed, q.dropped} {
		outcomes.Add(context.Background(), 0, o)
	}
	go q.run()
	return q, nil
}

// OnStart implements trace.SpanProcessor.
func (*queue) OnStart(context.Context, trace.ReadWriteSpan) {}

// OnEnd implements trace.SpanProcessor; it never waits.
func (q *queue) OnEnd(s trace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	select {
	case q.spans <- s:
	default:
		q.outcomes.Add(context.Background(), 1, q.dropped)
	}
}

// ForceFlush implements trace.SpanProcessor.
func (q *queue) ForceFlush(ctx context.Context) error {
	flushed := make(chan struct{})
	for send := q.flush; ; send = nil {
		select {
		case send <- flushed:
		case <-flushed:
			return nil
		case <-q.done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Shutdown implements trace.SpanProcessor.
func (q *queue) Shutdown(ctx context.Context) error {
	q.once.Do(func() { close(q.stop) })
	select {
	case <-q.done:
		return q.exporter.Shutdown(ctx)
	case <-ctx.Done():
		return fmt.Errorf("send the last spans: %w", context.Cause(ctx))
	}
}

func (q *queue) run() {
	defer close(q.done)
	timer := time.NewTimer(batchDelay)
	timer.Stop()
	var batch []trace.ReadOnlySpan
	send := func() {
		timer.Stop()
		if len(batch) == 0 {
			return
		}
		outcome := q.exported
		if err := q.exporter.ExportSpans(context.Background(), batch); err != nil {
			otel.Handle(err)
			outcome = q.failed
		}
		q.outcomes.Add(context.Background(), int64(len(batch)), outcome)
		batch = nil
	}
	add := func(s trace.ReadOnlySpan) {
		if batch = append(batch, s); len(batch) == 1 {
			timer.Reset(batchDelay)
		}
		if len(batch) >= batchSize {
			send()
		}
	}
	rest := func() {
		for {
			select {
			case s := <-q.spans:
				add(s)
			default:
				send()
				return
			}
		}
	}
	for {
		select {
		case s := <-q.spans:
			add(s)
		case <-timer.C:
			send()
		case flushed := <-q.flush:
			rest()
			close(flushed)
		case <-q.stop:
			rest()
			return
		}
	}
}
