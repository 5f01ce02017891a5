package ledger

import (
	"testing"
	"time"

	"github.com/orrery-dev/orrery/apps/pulse/internal/ranges"
)

// TestDue: what is acknowledged is due after the deadline, whatever came after it, and
// whoever draws up the account.
func TestDue(t *testing.T) {
	const deadline = 10 * time.Second
	start := time.Unix(1000, 0)
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	var in Intake
	acked := map[uint64]int{} // number → second
	for second := range 60 {
		n := uint64(second + 1)
		in = in.join(ranges.Of(n), ranges.Of(n), at(second), deadline)
		acked[n] = second
		due := in.due(at(second), deadline)
		for n, when := range acked {
			age := second - when
			if due.Has(n) && age < 10 {
				t.Fatalf("second %d: %d is due after %d s", second, n, age)
			}
			if !due.Has(n) && age >= 20 {
				t.Fatalf("second %d: %d is not due after %d s", second, n, age)
			}
		}
	}
	if due := in.due(at(59+10), deadline); due.Len() != 60 {
		t.Errorf("a deadline after the last, %d of 60 are due", due.Len())
	}
}

func TestSettle(t *testing.T) {
	now := time.Unix(1000, 0)
	const deadline = 10 * time.Second
	old, fresh := now.Add(-time.Minute), now
	for _, test := range []struct {
		name string
		in   Intake
		out  Delivery
		want Account
	}{
		{"all well", Intake{Sent: ranges.From(1, 5), Acked: ranges.From(1, 5), Updated: old}, Delivery{Delivered: ranges.From(1, 5)},
			Account{Sent: 5, Acknowledged: 5, Delivered: 5}},
		{"under way", Intake{Sent: ranges.From(1, 5), Acked: ranges.From(1, 4), SnapshotAt: fresh, Updated: fresh}, Delivery{Delivered: ranges.From(1, 2)},
			Account{Sent: 5, Acknowledged: 4, Delivered: 2, Pending: 2, Unacknowledged: 1, Missing: []string{"p.3", "p.4"}}},
		{"lost", Intake{Sent: ranges.From(1, 5), Acked: ranges.From(1, 5), Updated: old}, Delivery{Delivered: ranges.Of(1, 2, 4)},
			Account{Sent: 5, Acknowledged: 5, Delivered: 3, Lost: 2, Missing: []string{"p.3", "p.5"}}},
		{"delivered before the ledger of ingest says so", Intake{}, Delivery{Delivered: ranges.From(1, 3), Duplicates: 1},
			Account{Sent: 3, Acknowledged: 3, Delivered: 3, Duplicates: 1}},
		{"left out by the producer", Intake{Sent: ranges.Of(1, 4), Acked: ranges.Of(1, 4), Updated: old}, Delivery{Delivered: ranges.Of(1, 4)},
			Account{Sent: 2, Acknowledged: 2, Delivered: 2, Skipped: 2}},
	} {
		got := settle("p", test.in, test.out, now, deadline)
		if got.Sent != test.want.Sent || got.Acknowledged != test.want.Acknowledged || got.Delivered != test.want.Delivered || got.Duplicates != test.want.Duplicates ||
			got.Pending != test.want.Pending || got.Unacknowledged != test.want.Unacknowledged || got.Lost != test.want.Lost || got.Skipped != test.want.Skipped || len(got.Missing) != len(test.want.Missing) {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
		for i := range test.want.Missing {
			if got.Missing[i] != test.want.Missing[i] {
				t.Errorf("%s: missing %v, want %v", test.name, got.Missing, test.want.Missing)
			}
		}
	}
}

func TestLatency(t *testing.T) {
	var out Delivery
	if quantiles(out) != nil {
		t.Error("a latency without deliveries")
	}
	for range 98 {
		out.Observe(0.004)
	}
	out.Observe(0.3)
	out.Observe(500)
	l := quantiles(Delivery{}.join(out, time.Now()))
	if l.P50 != .005 || l.P95 != .005 || l.P99 != .5 || l.Max != 500 {
		t.Errorf("latency %+v", l)
	}
}
