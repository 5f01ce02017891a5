package dashboard

import (
	"math"
	"testing"
)

func TestFormat(t *testing.T) {
	for _, c := range []struct {
		unit Unit
		v    float64
		want string
	}{
		{Count, 0, "0"}, {Count, 5, "5"}, {Count, 1234, "1234"}, {Count, 12345, "12.3 k"}, {Count, 0.5, "0.5"}, {Count, 3.14159, "3.14"}, {Count, -2, "-2"},
		{Count, math.NaN(), "–"}, {Count, math.Inf(1), "+∞"}, {Count, 1e-9, "1e-09"},
		{Ratio, 0.5, "50 %"}, {Ratio, 0.0123, "1.23 %"}, {Ratio, 1, "100 %"},
		{Bytes, 512, "512 B"}, {Bytes, 1024, "1 KiB"}, {Bytes, 1.5 * (1 << 30), "1.5 GiB"}, {Bytes, 1023.9, "1 KiB"},
		{BytesPerSecond, 2048, "2 KiB/s"},
		{Seconds, 0, "0 s"}, {Seconds, 0.0000021, "2.1 µs"}, {Seconds, 0.25, "250 ms"}, {Seconds, 1.5, "1.5 s"}, {Seconds, 600, "10 min"}, {Seconds, 10800, "3 h"}, {Seconds, 864000, "10 d"},
		{PerSecond, 12.34, "12.3/s"}, {PerSecond, 123456, "123 k/s"},
		{Cores, 1, "1 core"}, {Cores, 2.5, "2.5 cores"}, {Cores, 0.05, "50 mcore"}, {Cores, 0, "0 cores"},
		{Timestamp, 1764000000, "2025-11-24 16:00"},
	} {
		if got := c.unit.Format(c.v); got != c.want {
			t.Errorf("%s %g: %q, want %q", c.unit, c.v, got, c.want)
		}
	}
}

func TestSparkline(t *testing.T) {
	if got := Sparkline([]float64{0, 1, 2, 3, math.NaN(), 7}); got != "▁▂▃▄ █" {
		t.Errorf("%q", got)
	}
	if got := Sparkline([]float64{5, 5}); got != "▄▄" {
		t.Errorf("%q", got)
	}
	if got := Sparkline(nil); got != "" {
		t.Errorf("%q", got)
	}
	if got := Thin([]float64{1, 3, 5, math.NaN(), math.NaN(), math.NaN()}, 3); got[0] != 2 || got[1] != 5 || !math.IsNaN(got[2]) {
		t.Error(got)
	}
}
