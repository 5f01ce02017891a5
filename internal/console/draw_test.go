package console

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/observe"
)

func TestNice(t *testing.T) {
	for _, c := range []struct{ v, base, want float64 }{
		{0.7, 1000, 0.8}, {1, 1000, 1}, {1.01, 1000, 2}, {7, 1000, 8}, {11, 1000, 20}, {950, 1000, 1000}, {0.00042, 1000, 0.0005},
		{1500, 1024, 2048}, {700 << 20, 1024, 800 << 20}, {1, 1024, 1},
	} {
		if got := nice(c.v, c.base); math.Abs(got-c.want) > 1e-9*c.want {
			t.Errorf("nice(%g, %g) = %g, want %g", c.v, c.base, got, c.want)
		}
	}
}

func grid() observe.Range { return gridOf(90*time.Minute, time.Unix(1764000000, 0)) }

func at(step int, v float64) observe.Point {
	g := grid()
	return observe.Point{Time: g.Start.Add(time.Duration(step) * g.Step), Value: v}
}

// A gap stays a gap, a lonely point is seen, values out of the range are left out.
func TestLine(t *testing.T) {
	s := named{"a", []observe.Point{at(-1, 9), at(0, 0), at(1, 1), at(5, 0.5), at(9, math.NaN()), at(90, 1), at(91, 1)}}
	c := newChart(dashboard.Panel{}, grid(), []named{s}, nil)
	if got, want := c.line(c.row(s)), "M0 1000L1 0M5 500h.6M90 0h.6"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := c.fill(c.row(s)), "M0 1000L0 1000L1 0L1 1000zM5 1000L5 500L5 1000zM90 1000L90 0L90 1000z"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestScale(t *testing.T) {
	five := []named{{"a", []observe.Point{at(0, 5), at(1, 7)}}, {"b", []observe.Point{at(0, 5)}}}
	lowest, most := 2.0, 3.0
	for name, c := range map[string]struct {
		panel     dashboard.Panel
		series    []named
		low, high float64
	}{
		"from zero":         {dashboard.Panel{}, five, 0, 8},
		"stacked":           {dashboard.Panel{Stack: true}, five, 0, 10},
		"negative":          {dashboard.Panel{}, []named{{"a", []observe.Point{at(0, -5), at(1, 5)}}}, -5, 5},
		"nothing but zero":  {dashboard.Panel{}, []named{{"a", []observe.Point{at(0, 0)}}}, 0, 1},
		"zero and a limit":  {dashboard.Panel{Thresholds: []dashboard.Threshold{{From: 0.01, State: dashboard.Warning}}}, []named{{"a", []observe.Point{at(0, 0)}}}, 0, 0.01},
		"as the panel says": {dashboard.Panel{Min: &lowest, Max: &most}, five, 2, 3},
		"no values":         {dashboard.Panel{}, []named{{"a", []observe.Point{at(0, math.NaN()), at(1, math.Inf(1))}}}, 0, 1},
	} {
		if got := newChart(c.panel, grid(), c.series, nil); got.low != c.low || math.Abs(got.high-c.high) > 1e-9 {
			t.Errorf("%s: %g to %g, want %g to %g", name, got.low, got.high, c.low, c.high)
		}
	}
}

// The series that matter stay when there is no room for all.
func TestManySeries(t *testing.T) {
	var all []named
	for i := range 30 {
		all = append(all, named{itoa(i), []observe.Point{at(0, float64(i))}})
	}
	c := newChart(dashboard.Panel{}, grid(), all, nil)
	if len(c.series) != maxSeries || c.more != 20 || !strings.Contains(string(c.draw()), "and 20 more") {
		t.Errorf("%d series, %d more", len(c.series), c.more)
	}
	for _, s := range c.series {
		if s.last() < 20 {
			t.Errorf("%s is shown, greater ones are not", s.name)
		}
	}
}

func TestLevels(t *testing.T) {
	for text, want := range map[string]string{
		`level=warn msg=x`: "warn", `{"level":"ERROR","msg":"x"}`: "error", `E1122 10:00:00.1 1 x.go:1] y`: "error", `W1122 10:00:00.1 1 x.go:1] y`: "warn",
		`[7] 2026/11/22 10:00:00.000000 [ERR] z`: "error", `plain text`: "info", `{"severity":"debug"}`: "debug", `it was an error to look`: "info",
	} {
		if got := level(observe.Line{Text: text}); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
	for _, c := range []struct {
		text   string
		labels observe.Labels
		want   string
	}{
		{"level=info", observe.Labels{"level": "error"}, "error"},                                                // the writer's own label
		{`I1123 10:00:00.1 1 x.go:1] "Failed probe" err="x"`, observe.Labels{"detected_level": "error"}, "info"}, // a guess by a word
		{"it broke", observe.Labels{"detected_level": "error"}, "error"},                                         // nothing better
	} {
		if got := level(observe.Line{Text: c.text, Labels: c.labels}); got != c.want {
			t.Errorf("%s %v: %s, want %s", c.text, c.labels, got, c.want)
		}
	}
	id := strings.Repeat("ab", 16)
	for _, l := range []observe.Line{{Labels: observe.Labels{"trace_id": id}}, {Text: `{"trace_id":"` + id + `"}`}, {Text: "trace_id=" + id}, {Text: "traceID: " + id}} {
		if got := traceOf(l); got != id {
			t.Errorf("%+v: trace %q", l, got)
		}
	}
	if got := traceOf(observe.Line{Text: "trace_id=xyz", Labels: observe.Labels{"trace_id": "javascript:x"}}); got != "" {
		t.Errorf("trace %q", got)
	}
}

// Whatever the cluster says becomes text, never markup.
func FuzzDraw(f *testing.F) {
	f.Add("pod", "text", 1.5)
	f.Add(`"><evil`, `{"msg":"<evil","a":["<evil"]}`, math.NaN())
	f.Add("\xff", "level=error \x00", math.Inf(-1))
	f.Add("Na\x01N", "text", 1.5)
	f.Fuzz(func(t *testing.T, name, text string, v float64) {
		name, text = name+"<evil "+name, text+"<evil"
		p := dashboard.Panel{Title: name, Unit: dashboard.Bytes, Empty: name, EmptyWhenHealthy: true}
		series := func() []named {
			return []named{{name, []observe.Point{at(1, v), at(2, v)}}, {text, []observe.Point{at(1, v), at(2, -v)}}}
		}
		s := Snapshot{Nodes: []Node{{Name: name, Zone: text, State: text, Health: Failing, Pods: []Pod{{Namespace: name, Name: text, Reason: text, Health: Failing}}}}}
		stacked := p
		stacked.Stack = true
		for i, html := range []string{
			string(newChart(p, grid(), series(), []observe.Exemplar{{Labels: observe.Labels{"trace_id": text}, Point: at(1, v)}}).draw()),
			string(newChart(stacked, grid(), series(), nil).draw()),
			string(drawStat(p, series(), grid())), string(drawBars(p, series())), string(nothing(p)),
			string(drawLines([]observe.Line{{Text: text, Labels: observe.Labels{"pod": name, "namespace": text, "trace_id": name}}})),
			string(drawFound([]observe.Found{{ID: strings.Repeat("a", 32), Service: name, Name: text}})),
			string(drawTrace(observe.Trace{ID: "1", Spans: []observe.Span{{Name: name, Service: text, Message: text, Kind: name, Failed: true, Attributes: observe.Labels{name: text},
				Events: []observe.SpanEvent{{Name: name, Attributes: observe.Labels{name: text}}}, Links: []observe.SpanLink{{TraceID: text}}}}})),
			string(picture(s)), string(drawComponents([]Component{{Name: name, Reason: text}})),
			string(drawEndpoints([]Endpoint{{Name: name, Address: text, Link: true}})),
		} {
			if strings.Contains(html, "<evil") {
				t.Errorf("%d: markup got in: %s", i, html)
			}
			// Characters that cannot be drawn are left out, and an escape in JSON is read, so any n may make a NaN.
			if strings.Contains(html, "NaN") && !strings.ContainsAny(name+text, `Nn\`) {
				t.Errorf("%d: a coordinate is no number: %s", i, html)
			}
		}
	})
}
