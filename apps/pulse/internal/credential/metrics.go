package credential

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

const scope = "github.com/orrery-dev/orrery/apps/pulse/internal/credential"

var failures = sync.OnceValues(func() (metric.Int64Counter, error) {
	return otel.Meter(scope).Int64Counter("pulse.credential.failures",
		metric.WithDescription("Times that Vault gave or renewed no NATS credential."), metric.WithUnit("{attempt}"))
})

func (k *Keeper) count(ctx context.Context) {
	if c, err := failures(); err == nil {
		c.Add(ctx, 1)
	}
}

// observe has the metrics; names in docs/reference/pulse.md.
func (k *Keeper) observe() error {
	meter := otel.Meter(scope)
	source, err := meter.Int64ObservableGauge("pulse.credential.source",
		metric.WithDescription("1 for where the NATS credential in use is from: vault, file, or none."))
	left, leftErr := meter.Float64ObservableGauge("pulse.credential.left",
		metric.WithDescription("Share of its life that the NATS credential from Vault still has; nothing without one."), metric.WithUnit("1"))
	up, upErr := meter.Int64ObservableGauge("pulse.credential.vault.up",
		metric.WithDescription("Whether Vault answered the last request for a NATS credential; nothing before it has given one."))
	if err := errors.Join(err, leftErr, upErr); err != nil {
		return fmt.Errorf("metrics of the credential: %w", err)
	}
	_, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		k.mu.Lock()
		l, failing := k.lease, k.failing
		k.mu.Unlock()
		from := "none"
		if k.file != "" {
			from = "file"
		}
		if l != nil {
			share := max(0, time.Until(l.expires).Seconds()/l.expires.Sub(l.from).Seconds())
			if share > 0 {
				from = "vault"
			}
			o.ObserveFloat64(left, share)
			o.ObserveInt64(up, map[bool]int64{false: 1, true: 0}[failing])
		}
		o.ObserveInt64(source, 1, metric.WithAttributes(attribute.String("source", from)))
		return nil
	}, source, left, up)
	if err != nil {
		return fmt.Errorf("metrics of the credential: %w", err)
	}
	return nil
}
