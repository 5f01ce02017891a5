package worker

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/orrery-dev/orrery/apps/pulse/internal/ledger"
)

const scope = "github.com/orrery-dev/orrery/apps/pulse/internal/worker"

// metrics of a worker; names in docs/reference/pulse.md.
type metrics struct {
	delivered, duplicates, redelivered, refused metric.Int64Counter
	atDelivery                                  metric.MeasurementOption
	latency                                     metric.Float64Histogram
}

func newMetrics(follow *ledger.Follower) (m metrics, err error) {
	meter := otel.Meter(scope)
	var errs [7]error
	m.delivered, errs[0] = meter.Int64Counter("pulse.delivered", metric.WithDescription("Events whose effect was made, each counted once."), metric.WithUnit("{event}"))
	m.duplicates, errs[1] = meter.Int64Counter("pulse.duplicate",
		metric.WithDescription("Copies of events that were there already, by where they were noticed: publish or delivery."),
		metric.WithUnit("{event}"))
	m.redelivered, errs[2] = meter.Int64Counter("pulse.redelivered", metric.WithDescription("Deliveries that were not the first attempt."), metric.WithUnit("{event}"))
	m.refused, errs[3] = meter.Int64Counter("pulse.refused",
		metric.WithDescription("Messages that were no events and are not delivered again."), metric.WithUnit("{message}"))
	m.latency, errs[4] = meter.Float64Histogram("pulse.latency",
		metric.WithDescription("From the moment that ingest took an event in until its effect was in the store and the ledger."),
		metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(ledger.Bounds...))
	lost, err := meter.Int64ObservableGauge("pulse.lost",
		metric.WithDescription("Events that JetStream acknowledged and that were not delivered within the deadline, in the whole ledger: every worker says the same."),
		metric.WithUnit("{event}"))
	errs[5] = err
	pending, err := meter.Int64ObservableGauge("pulse.pending",
		metric.WithDescription("Events that JetStream acknowledged and that are not delivered, within the deadline, in the whole ledger."),
		metric.WithUnit("{event}"))
	errs[6] = err
	if err := errors.Join(errs[:]...); err != nil {
		return m, fmt.Errorf("metrics of the worker: %w", err)
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		t := follow.Totals()
		o.ObserveInt64(lost, int64(t.Lost))
		o.ObserveInt64(pending, int64(t.Pending))
		return nil
	}, lost, pending)
	if err != nil {
		return m, fmt.Errorf("metrics of the worker: %w", err)
	}
	m.atDelivery = metric.WithAttributeSet(attribute.NewSet(attribute.String("stage", "delivery")))
	// From the start, so that a rate has something to begin at.
	for _, c := range []metric.Int64Counter{m.delivered, m.redelivered, m.refused} {
		c.Add(context.Background(), 0)
	}
	m.duplicates.Add(context.Background(), 0, m.atDelivery)
	return m, nil
}
