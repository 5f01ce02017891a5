package ingest

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/orrery-dev/orrery/apps/pulse/internal/ledger"
	"github.com/orrery-dev/orrery/apps/pulse/internal/outbox"
)

const scope = "github.com/orrery-dev/orrery/apps/pulse/internal/ingest"

func newMetrics(box *outbox.Outbox) (m metrics, err error) {
	meter := otel.Meter(scope)
	var errs [5]error
	m.sent, errs[0] = meter.Int64Counter("pulse.sent", metric.WithDescription("Events that ingest took on, each counted once."), metric.WithUnit("{event}"))
	m.acked, errs[1] = meter.Int64Counter("pulse.acknowledged", metric.WithDescription("Events that JetStream acknowledged, each counted once."), metric.WithUnit("{event}"))
	m.duplicates, errs[2] = meter.Int64Counter("pulse.duplicate",
		metric.WithDescription("Copies of events that were there already, by where they were noticed: publish or delivery."),
		metric.WithUnit("{event}"))
	m.publish, errs[3] = meter.Float64Histogram("pulse.publish",
		metric.WithDescription("From publishing an event to JetStream's acknowledgement."),
		metric.WithUnit("s"), metric.WithExplicitBucketBoundaries(ledger.Bounds...))
	_, errs[4] = meter.Int64ObservableGauge("pulse.outbox", metric.WithDescription("Events on this ingest's disk that are not acknowledged."), metric.WithUnit("{event}"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(box.Len()))
			return nil
		}))
	if err := errors.Join(errs[:]...); err != nil {
		return m, fmt.Errorf("metrics of ingest: %w", err)
	}
	m.atPublish = metric.WithAttributeSet(attribute.NewSet(attribute.String("stage", "publish")))
	// From the start, so that a rate has something to begin at.
	m.sent.Add(context.Background(), 0)
	m.acked.Add(context.Background(), 0)
	m.duplicates.Add(context.Background(), 0, m.atPublish)
	return m, nil
}
