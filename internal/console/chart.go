package console

import (
	"cmp"
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/observe"
)

// named is a series with the name that its panel gives it.
type named struct {
	name   string
	points []observe.Point
}

func (n named) last() float64 {
	if len(n.points) == 0 {
		return math.NaN()
	}
	return n.points[len(n.points)-1].Value
}

const (
	chartPoints = 90   // across a chart
	chartHeight = 1000 // units from the least to the greatest value
	maxSeries   = 10   // of a chart; the rest is counted
)

// chart draws lines over time. The plot is stretched to whatever room there is, so its
// coordinates are steps and thousandths of the scale, and all text stands outside, in HTML.
// The script reads the values under the pointer back from the coordinates.
type chart struct {
	panel     dashboard.Panel
	grid      observe.Range
	series    []named
	more      int // series left out
	exemplars []observe.Exemplar
	low, high float64
}

func newChart(p dashboard.Panel, grid observe.Range, series []named, exemplars []observe.Exemplar) *chart {
	c := &chart{panel: p, grid: grid, exemplars: exemplars}
	slices.SortStableFunc(series, func(a, b named) int { return cmp.Compare(weight(b), weight(a)) })
	if len(series) > maxSeries {
		c.more = len(series) - maxSeries
		series = series[:maxSeries]
	}
	slices.SortStableFunc(series, func(a, b named) int { return cmp.Compare(a.name, b.name) })
	c.series = series
	c.scale()
	return c
}

// weight puts the series that matter first when there is no room for all.
func weight(n named) float64 {
	m := math.Inf(-1)
	for _, p := range n.points {
		if !math.IsNaN(p.Value) && !math.IsInf(p.Value, 0) {
			m = max(m, p.Value)
		}
	}
	return m
}

// rows lays the points of a series on the grid; NaN where there is none.
func (c *chart) row(n named) []float64 {
	row := make([]float64, chartPoints+1)
	for i := range row {
		row[i] = math.NaN()
	}
	for _, p := range n.points {
		i := int(math.Round(float64(p.Time.Sub(c.grid.Start)) / float64(c.grid.Step)))
		if i >= 0 && i < len(row) && !math.IsInf(p.Value, 0) {
			row[i] = p.Value
		}
	}
	return row
}

func (c *chart) scale() {
	low, high := 0.0, math.Inf(-1)
	sums := make([]float64, chartPoints+1)
	for _, s := range c.series {
		for i, v := range c.row(s) {
			if math.IsNaN(v) {
				continue
			}
			if c.panel.Stack {
				sums[i] += v
				v = sums[i]
			}
			low, high = min(low, v), max(high, v)
		}
	}
	for _, e := range c.exemplars {
		if e.Value < 4*high { // a single one far above would flatten the lines
			high = max(high, e.Value)
		}
	}
	if c.panel.Min != nil {
		low = *c.panel.Min
	}
	if math.IsInf(high, -1) || high <= low {
		high = low + 1
		for _, t := range c.panel.Thresholds {
			if t.From > low { // how much would be too much says what is little
				high = t.From
				break
			}
		}
	}
	base := 1000.0
	if c.panel.Unit == dashboard.Bytes || c.panel.Unit == dashboard.BytesPerSecond {
		base = 1024
	}
	c.low, c.high = low, low+nice(high-low, base)
	if c.panel.Max != nil {
		c.high = *c.panel.Max
	}
}

// nice rounds up to a number whose half is easy to read too.
func nice(v, base float64) float64 {
	unit := math.Pow(base, math.Floor(math.Log(v)/math.Log(base)))
	f := v / unit
	decade := math.Pow(10, math.Floor(math.Log10(f)))
	for _, step := range []float64{1, 2, 3, 4, 5, 6, 8, 10} {
		if f <= step*decade*1.0001 {
			return step * decade * unit
		}
	}
	return 10 * decade * unit
}

func (c *chart) y(v float64) int {
	return int(math.Round(chartHeight * (1 - (min(max(v, c.low), c.high)-c.low)/(c.high-c.low))))
}

func (c *chart) draw() template.HTML {
	var d drawing
	unit := c.panel.Unit
	d.f(`<div class="chart" data-t0="%d" data-dt="%d" data-lo="%g" data-hi="%g" data-unit="%s">`,
		c.grid.Start.UnixMilli(), c.grid.Step.Milliseconds(), c.low, c.high, esc(string(unit)))
	d.f(`<div class="yaxis" aria-hidden="true"><span>%s</span><span>%s</span><span>%s</span></div>`,
		esc(unit.Format(c.high)), esc(unit.Format((c.high+c.low)/2)), esc(unit.Format(c.low)))
	d.f(`<svg class="plot" viewBox="0 0 %d %d" preserveAspectRatio="none" role="img" aria-label="%s">`, chartPoints, chartHeight, esc(c.describe()))
	d.f(`<path class="grid" d="M0 0H%[1]dM0 500H%[1]dM0 1000H%[1]d"/>`, chartPoints)
	for _, t := range c.panel.Thresholds {
		if t.From > c.low && t.From < c.high && (t.State == dashboard.Warning || t.State == dashboard.Critical) {
			d.f(`<path class="limit %s" d="M0 %dH%d"/>`, t.State, c.y(t.From), chartPoints)
		}
	}
	under := make([]float64, chartPoints+1)
	first, last := c.extent()
	for i, s := range c.series {
		row := c.row(s)
		if c.panel.Stack {
			c.area(&d, i, row[:last+1], under, first)
			continue
		}
		if line := c.line(row); line != "" {
			if len(c.series) == 1 {
				d.f(`<path class="fill s0" d="%s"/>`, c.fill(row))
			}
			d.f(`<path class="line s%d" data-s="%d" d="%s"/>`, i, i, line)
		}
	}
	for _, e := range c.exemplars {
		x := float64(e.Time.Sub(c.grid.Start)) / float64(c.grid.Step)
		if x < 0 || x > chartPoints || e.TraceID() == "" {
			continue
		}
		d.f(`<a href="/traces/%[1]s" tabindex="-1" data-tip="%[2]s"><path class="exemplar" d="M%[3]s %[4]dh0"/></a>`,
			esc(e.TraceID()), esc(unit.Format(e.Value)+"\nopen the trace"), num(x), c.y(e.Value))
	}
	d.f(`<path class="cursor" d="M0 0V%d" visibility="hidden"/></svg>`, chartHeight)
	layout := "15:04"
	if c.grid.End.Sub(c.grid.Start) > 26*time.Hour {
		layout = "2 Jan 15:04"
	}
	d.f(`<div class="xaxis" aria-hidden="true">`)
	for i := range 3 {
		at := c.grid.Start.Add(time.Duration(i) * c.grid.End.Sub(c.grid.Start) / 2)
		d.f(`<time datetime="%s">%s</time>`, at.UTC().Format(time.RFC3339), at.Local().Format(layout))
	}
	d.f(`</div></div>`)
	c.legend(&d)
	return d.html()
}

func (c *chart) legend(d *drawing) {
	d.f(`<ul class="legend">`)
	for i, s := range c.series {
		d.f(`<li data-s="%d"><i class="key s%d"></i><span>%s</span> <b>%s</b></li>`, i, i, esc(s.name), esc(c.panel.Unit.Format(c.now(s))))
	}
	if c.more > 0 {
		d.f(`<li class="more">and %d more</li>`, c.more)
	}
	d.f(`</ul>`)
}

// line is a path with a gap where there is no value. A lonely point becomes a short dash.
func (c *chart) line(row []float64) string {
	var b strings.Builder
	pen := false
	for i, v := range row {
		if math.IsNaN(v) {
			pen = false
			continue
		}
		if !pen {
			fmt.Fprintf(&b, "M%d %d", i, c.y(v))
			if i+1 >= len(row) || math.IsNaN(row[i+1]) {
				b.WriteString("h.6")
			}
		} else {
			fmt.Fprintf(&b, "L%d %d", i, c.y(v))
		}
		pen = true
	}
	return b.String()
}

// fill is the area under the runs of a line.
func (c *chart) fill(row []float64) string {
	var b strings.Builder
	base, begin := c.y(c.low), -1
	for i := 0; i <= len(row); i++ {
		if i < len(row) && !math.IsNaN(row[i]) {
			if begin < 0 {
				begin = i
				fmt.Fprintf(&b, "M%d %d", i, base)
			}
			fmt.Fprintf(&b, "L%d %d", i, c.y(row[i]))
		} else if begin >= 0 {
			fmt.Fprintf(&b, "L%d %dz", i-1, base)
			begin = -1
		}
	}
	return b.String()
}

// extent is where the first and the last value of any series are.
func (c *chart) extent() (first, last int) {
	first = chartPoints
	for _, s := range c.series {
		for x, v := range c.row(s) {
			if !math.IsNaN(v) {
				first, last = min(first, x), max(last, x)
			}
		}
	}
	return first, last
}

// area stacks a series on those under it, from a step on; a gap counts as nothing.
func (c *chart) area(d *drawing, i int, row, under []float64, first int) {
	var up, down []string
	any := false
	for x, v := range row {
		if x < first {
			continue
		}
		if math.IsNaN(v) {
			v = 0
		} else {
			any = true
		}
		down = append(down, fmt.Sprintf("L%d %d", x, c.y(under[x])))
		under[x] += v
		up = append(up, fmt.Sprintf("%d %d", x, c.y(under[x])))
	}
	if any {
		slices.Reverse(down)
		d.f(`<path class="stack s%d" d="M%s%sz"/><path class="line s%d" data-s="%d" d="M%s"/>`, i, strings.Join(up, "L"), strings.Join(down, ""), i, i, strings.Join(up, "L"))
	}
}

// now is the value at the end of the chart; NaN for a series that ended before.
func (c *chart) now(n named) float64 {
	if len(n.points) == 0 || c.grid.End.Sub(n.points[len(n.points)-1].Time) > 2*c.grid.Step {
		return math.NaN()
	}
	return n.last()
}

// describe says in words what the picture shows.
func (c *chart) describe() string {
	var parts []string
	for _, s := range c.series {
		parts = append(parts, s.name+" "+c.panel.Unit.Format(c.now(s)))
	}
	return c.panel.Title + ": " + strings.Join(parts, ", ")
}

// spark is a line without axes.
func spark(points []observe.Point, grid observe.Range) template.HTML {
	c := &chart{grid: grid, series: []named{{points: points}}}
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range c.row(c.series[0]) {
		if !math.IsNaN(v) {
			low, high = min(low, v), max(high, v)
		}
	}
	if !(high > low) {
		low, high = low-1, low+1
	}
	c.low, c.high = low-(high-low)/8, high+(high-low)/8
	row := c.row(c.series[0])
	line := c.line(row)
	if line == "" {
		return ""
	}
	var d drawing
	d.f(`<svg class="spark" viewBox="0 0 %d %d" preserveAspectRatio="none" aria-hidden="true"><path class="fill s0" d="%s"/><path class="line s0" d="%s"/></svg>`,
		chartPoints, chartHeight, c.fill(row), line)
	return d.html()
}
