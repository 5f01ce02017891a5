package app

import (
	"bytes"
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/orrery-dev/orrery/internal/observe"
)

func TestSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{"15m": 15 * time.Minute, "2h": 2 * time.Hour, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "90s": 90 * time.Second} {
		var s span
		if err := s.Set(text); err != nil || time.Duration(s) != want {
			t.Errorf("%s: %s, %v", text, time.Duration(s), err)
		}
	}
	for _, text := range []string{"", "0", "-1h", "x", "1.5d", "d", "10"} {
		var s span
		if err := s.Set(text); err == nil {
			t.Errorf("%q is taken for %s", text, time.Duration(s))
		}
	}
	for d, want := range map[time.Duration]string{time.Hour: "1h", 15 * time.Minute: "15m", 90 * time.Minute: "1h30m", 0: ""} {
		s := span(d)
		if s.String() != want {
			t.Errorf("%s is written %s", d, s.String())
		}
	}
}

func TestSeriesTable(t *testing.T) {
	at := time.Unix(0, 0)
	series := []observe.Series{
		{Labels: observe.Labels{"job": "etcd", "node": "b"}, Points: []observe.Point{{Time: at, Value: 1}, {Time: at, Value: math.NaN()}, {Time: at, Value: 2.5}}},
		{Labels: observe.Labels{"job": "etcd", "node": "a"}, Points: []observe.Point{{Time: at, Value: 1234567}}},
	}
	header, rows := seriesTable(series, true)
	want := [][]string{{"a", "1234567", "1234567", "1234567", "▄"}, {"b", "2.5", "1", "2.5", "▁ █"}}
	if d := cmp.Diff([]string{"node", "LAST", "MIN", "MAX", "OVER TIME"}, header) + cmp.Diff(want, rows); d != "" {
		t.Error(d)
	}
	header, rows = seriesTable(series[:1], false)
	if d := cmp.Diff([]string{"job", "node", "VALUE"}, header) + cmp.Diff([][]string{{"etcd", "b", "2.5"}}, rows); d != "" {
		t.Error(d)
	}
}

func TestPrintTrace(t *testing.T) {
	start := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	trace := observe.Trace{ID: strings.Repeat("a", 32), Spans: []observe.Span{
		{Service: "ingest", Name: "POST /orders", Start: at(0), Duration: 20 * time.Millisecond},
		{Service: "ingest", Name: "publish", Depth: 1, Start: at(5), Duration: 5 * time.Millisecond},
		{Service: "worker", Name: "consume", Depth: 2, Start: at(30), Duration: 10 * time.Millisecond, Failed: true, Message: "late"},
	}}
	var b bytes.Buffer
	if err := printTrace(&b, trace, 16); err != nil {
		t.Fatal(err)
	}
	want := `Trace aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
3 spans in ingest, worker, 40 ms, began 2026-11-22 10:00:00.000 UTC

SERVICE  SPAN          0            40 ms  TOOK
ingest   POST /orders  │████████        │  20 ms
ingest   · publish     │  ██            │  5 ms
worker   · · consume   │            ████│  10 ms  ✗ late
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Error(d, b.String())
	}
	for _, c := range []struct{ offset, length, whole time.Duration }{{0, 0, 0}, {10, 0, 10}, {0, 10, 10}, {9, 100, 10}, {3, 1, 1000}} {
		if got := []rune(bar(c.offset, c.length, c.whole, 8)); len(got) != 8 || strings.TrimSpace(string(got)) == "" {
			t.Errorf("%+v: %q", c, string(got))
		}
	}
}

// Lines are shown once, oldest first, late ones too, and a service that is away for a
// while is asked again.
func TestLineTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := func(ago time.Duration, text string) observe.Line {
			return observe.Line{Time: time.Now().Add(-ago), Text: text}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var shown, told []string
		asked := 0
		one, two := line(3*time.Second, "one"), line(2*time.Second, "two")
		tail := lineTail{
			show: func(l observe.Line) error { shown = append(shown, l.Text); return nil },
			ask: func(_ context.Context, _ string, r observe.Range, _ int, order observe.Order) ([]observe.Line, error) {
				asked++
				switch asked {
				case 1:
					return []observe.Line{two, one}, nil
				case 2, 3:
					return nil, errors.New("away")
				case 4:
					if order != observe.OldestFirst || r.Start.After(one.Time) {
						t.Errorf("asks from %s, %s", r.Start, order)
					}
					return []observe.Line{one, line(5*time.Second, "late"), two}, nil
				}
				cancel()
				return nil, ctx.Err()
			},
		}
		if err := tail.first(ctx, observe.Last(time.Hour), 10); err != nil {
			t.Fatal(err)
		}
		if err := tail.follow(ctx, time.Second, func(err error) { told = append(told, err.Error()) }); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if want := []string{"one", "two", "late"}; !slices.Equal(shown, want) || len(told) != 1 {
			t.Errorf("shown %v, told %v", shown, told)
		}
	})
}

func TestLineOrigin(t *testing.T) {
	for want, l := range map[string]observe.Labels{
		"messaging/nats-0": {"k8s_namespace_name": "messaging", "k8s_pod_name": "nats-0", "service_name": "nats"},
		"apps/a":           {"namespace": "apps", "pod": "a"},
		"pulse":            {"service_name": "pulse"},
		`{x="y"}`:          {"x": "y"},
	} {
		if got := lineOrigin(l); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
