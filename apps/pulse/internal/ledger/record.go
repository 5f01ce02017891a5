package ledger

import (
	"fmt"
	"slices"
	"time"

	"github.com/orrery-dev/orrery/apps/pulse/internal/ranges"
)

// Intake is what ingest knows of a producer.
type Intake struct {
	// Sent are the numbers that ingest took on, Acked those of them that JetStream
	// acknowledged.
	Sent  ranges.Set `json:"sent"`
	Acked ranges.Set `json:"acked"`
	// Settled is a subset of Acked as it was at least a deadline before Updated, and
	// Snapshot as it was at SnapshotAt: so that everybody who reads the record can tell
	// what is overdue, and no clock starts again with a restart.
	Settled    ranges.Set `json:"settled"`
	Snapshot   ranges.Set `json:"snapshot"`
	SnapshotAt time.Time  `json:"snapshotAt"`
	First      time.Time  `json:"first"`
	Updated    time.Time  `json:"updated"`
}

// join adds what another ingest, or a later moment, knows.
func (r Intake) join(sent, acked ranges.Set, now time.Time, deadline time.Duration) Intake {
	if r.First.IsZero() {
		r.First, r.SnapshotAt = now, now
	}
	if now.Sub(r.SnapshotAt) >= deadline {
		r.Settled, r.Snapshot, r.SnapshotAt = r.Snapshot, r.Acked, now
	}
	r.Sent = r.Sent.Union(sent).Union(acked)
	r.Acked = r.Acked.Union(acked)
	r.Updated = now
	return r
}

// due is what should have been delivered by now.
func (r Intake) due(now time.Time, deadline time.Duration) ranges.Set {
	switch {
	case now.Sub(r.Updated) >= deadline:
		return r.Acked
	case now.Sub(r.SnapshotAt) >= deadline:
		return r.Snapshot
	}
	return r.Settled
}

// Delivery is what the workers know of a producer.
type Delivery struct {
	// Delivered are the numbers whose effect was made, once each.
	Delivered ranges.Set `json:"delivered"`
	// Duplicates counts deliveries beyond the first of a number.
	Duplicates uint64 `json:"duplicates"`
	// Latency counts deliveries by the end-to-end latency, see [Bounds]; the last one is
	// what took longer.
	Latency []uint64 `json:"latency,omitempty"`
	// MaxLatency in seconds.
	MaxLatency float64   `json:"maxLatency,omitempty"`
	Updated    time.Time `json:"updated"`
}

// Bounds are the upper bounds of the latency buckets, in seconds.
var Bounds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120}

// Observe counts one delivery that took seconds.
func (r *Delivery) Observe(seconds float64) {
	if r.Latency == nil {
		r.Latency = make([]uint64, len(Bounds)+1)
	}
	i, _ := slices.BinarySearch(Bounds, seconds)
	r.Latency[i]++
	r.MaxLatency = max(r.MaxLatency, seconds)
}

func (r Delivery) join(o Delivery, now time.Time) Delivery {
	r.Delivered = r.Delivered.Union(o.Delivered)
	r.Duplicates += o.Duplicates
	if o.Latency != nil {
		sum := make([]uint64, len(Bounds)+1)
		for i := range sum {
			if i < len(r.Latency) {
				sum[i] += r.Latency[i]
			}
			if i < len(o.Latency) {
				sum[i] += o.Latency[i]
			}
		}
		r.Latency = sum
		r.MaxLatency = max(r.MaxLatency, o.MaxLatency)
	}
	r.Updated = now
	return r
}

// Account of one producer.
type Account struct {
	Producer string `json:"producer"`
	// Sent to JetStream by ingest, Acknowledged by it, and Delivered: of which the effect
	// was made, once. Each counts events, not attempts.
	Sent         uint64 `json:"sent"`
	Acknowledged uint64 `json:"acknowledged"`
	Delivered    uint64 `json:"delivered"`
	// Duplicates are deliveries whose effect had been made before; they had none.
	Duplicates uint64 `json:"duplicates"`
	// Pending are acknowledged and not delivered, but not for as long as the deadline.
	Pending uint64 `json:"pending"`
	// Unacknowledged were sent, and JetStream has not said that it has them.
	Unacknowledged uint64 `json:"unacknowledged"`
	// Lost are acknowledged and were not delivered within the deadline. An event that
	// turns up later is lost no more.
	Lost uint64 `json:"lost"`
	// Skipped are numbers below the greatest that ingest never saw: the producer left
	// them out, or never got through with them.
	Skipped uint64 `json:"skipped"`
	// Missing names events that are pending or lost, the first hundred.
	Missing []string `json:"missing"`
	// Latency from end to end, in seconds: upper bounds of the bucket that holds the
	// quantile. Nil before the first delivery.
	Latency *Latency  `json:"latencySeconds,omitempty"`
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
}

// Latency quantiles in seconds.
type Latency struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// maxMissing bounds the IDs that an account lists.
const maxMissing = 100

// settle draws up the account of a producer.
func settle(producer string, in Intake, out Delivery, now time.Time, deadline time.Duration) Account {
	// What was delivered was acknowledged, whether or not that answer arrived.
	acked := in.Acked.Union(out.Delivered)
	sent := in.Sent.Union(acked)
	missing := acked.Minus(out.Delivered)
	lost := in.due(now, deadline).Minus(out.Delivered)
	a := Account{
		Producer:       producer,
		Sent:           sent.Len(),
		Acknowledged:   acked.Len(),
		Delivered:      out.Delivered.Len(),
		Duplicates:     out.Duplicates,
		Pending:        missing.Minus(lost).Len(),
		Unacknowledged: sent.Minus(acked).Len(),
		Lost:           lost.Len(),
		Skipped:        ranges.From(1, sent.Max()).Minus(sent).Len(),
		Missing:        []string{},
		First:          in.First,
		Last:           later(in.Updated, out.Updated),
	}
	for _, n := range missing.First(maxMissing) {
		a.Missing = append(a.Missing, fmt.Sprintf("%s.%d", producer, n))
	}
	a.Latency = quantiles(out)
	return a
}

func quantiles(out Delivery) *Latency {
	var total uint64
	for _, n := range out.Latency {
		total += n
	}
	if total == 0 {
		return nil
	}
	at := func(q float64) float64 {
		rank, seen := uint64(q*float64(total)+0.5), uint64(0)
		for i, n := range out.Latency {
			if seen += n; seen >= max(1, rank) && i < len(Bounds) {
				return min(Bounds[i], out.MaxLatency)
			}
		}
		return out.MaxLatency
	}
	return &Latency{P50: at(.5), P95: at(.95), P99: at(.99), Max: out.MaxLatency}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
