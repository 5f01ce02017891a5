package dashboard

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// Format writes a number of this unit for a person: three digits that matter, a prefix
// where that is shorter.
func (u Unit) Format(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.IsInf(v, 0):
		return strings.Replace(strconv.FormatFloat(v, 'f', 0, 64), "Inf", "∞", 1)
	}
	switch u {
	case Ratio:
		return digits(100*v) + " %"
	case Bytes:
		return binary(v) + "B"
	case BytesPerSecond:
		return binary(v) + "B/s"
	case Seconds:
		return duration(v)
	case PerSecond:
		return decimal(v) + "/s"
	case Cores:
		if v != 0 && math.Abs(v) < 0.1 {
			return strconv.FormatFloat(1000*v, 'f', 0, 64) + " mcore"
		}
		return digits(v) + plural(v, " core", " cores")
	case Timestamp:
		return time.Unix(int64(v), 0).UTC().Format("2006-01-02 15:04")
	}
	return decimal(v)
}

func plural(v float64, one, many string) string {
	if v == 1 {
		return one
	}
	return many
}

// digits keeps three digits that matter and no zeros behind the point.
func digits(v float64) string {
	a := math.Abs(v)
	switch {
	case a >= 99.95 || v == 0:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 9.995:
		return trimZeros(strconv.FormatFloat(v, 'f', 1, 64))
	case a >= 0.0995:
		return trimZeros(strconv.FormatFloat(v, 'f', 2, 64))
	case a >= 0.0001:
		return trimZeros(strconv.FormatFloat(v, 'f', 4, 64))
	}
	return strconv.FormatFloat(v, 'g', 2, 64)
}

func trimZeros(s string) string {
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// decimal leaves numbers below ten thousand alone.
func decimal(v float64) string {
	a := math.Abs(v)
	if a < 10000 {
		if v == math.Trunc(v) {
			return strconv.FormatFloat(v, 'f', 0, 64)
		}
		return digits(v)
	}
	return scaled(v, 1000, []string{"", " k", " M", " G", " T", " P", " E"})
}

func binary(v float64) string {
	return scaled(v, 1024, []string{" ", " Ki", " Mi", " Gi", " Ti", " Pi", " Ei"})
}

func scaled(v, base float64, prefixes []string) string {
	i := 0
	for math.Abs(v) >= 0.9995*base && i < len(prefixes)-1 {
		v /= base
		i++
	}
	return digits(v) + prefixes[i]
}

func duration(v float64) string {
	a := math.Abs(v)
	switch {
	case v == 0:
		return "0 s"
	case a < 0.9995e-3:
		return digits(v*1e6) + " µs"
	case a < 0.9995:
		return digits(v*1e3) + " ms"
	case a < 120:
		return digits(v) + " s"
	case a < 2*3600:
		return digits(v/60) + " min"
	case a < 2*86400:
		return digits(v/3600) + " h"
	}
	return digits(v/86400) + " d"
}

// Duration is Seconds for a Go duration.
func Duration(d time.Duration) string { return Seconds.Format(d.Seconds()) }

// Sparkline draws the last numbers in a line of characters, one for each; what is no
// number is a gap.
func Sparkline(values []float64) string {
	bars := []rune("▁▂▃▄▅▆▇█")
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range values {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			low, high = min(low, v), max(high, v)
		}
	}
	var b strings.Builder
	for _, v := range values {
		switch {
		case math.IsNaN(v) || math.IsInf(v, 0):
			b.WriteByte(' ')
		case high == low:
			b.WriteRune(bars[3])
		default:
			b.WriteRune(bars[int((v-low)/(high-low)*float64(len(bars)-1)+0.5)])
		}
	}
	return b.String()
}

// Thin takes at most n values, each the mean of its neighbours, so that a line fits.
func Thin(values []float64, n int) []float64 {
	if len(values) <= n || n <= 0 {
		return values
	}
	out := make([]float64, n)
	for i := range out {
		from, to := i*len(values)/n, (i+1)*len(values)/n
		sum, count := 0.0, 0
		for _, v := range values[from:to] {
			if !math.IsNaN(v) && !math.IsInf(v, 0) {
				sum += v
				count++
			}
		}
		out[i] = math.NaN()
		if count > 0 {
			out[i] = sum / float64(count)
		}
	}
	return out
}
