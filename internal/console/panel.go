package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/observe"
)

// sources answer the queries of panels.
type sources struct {
	prometheus observe.Prometheus
	loki       observe.Loki
	tempo      observe.Tempo
}

// gridOf is a span that ends now, cut into the steps of a chart. Its ends are multiples of
// the step, so that what is drawn again a moment later does not jitter.
func gridOf(span time.Duration, now time.Time) observe.Range {
	step := max(time.Second, (span / chartPoints).Truncate(time.Second))
	end := now.Truncate(step)
	return observe.Range{Start: end.Add(-chartPoints * step), End: end, Step: step}
}

// ask is one panel to be drawn.
type ask struct {
	board  dashboard.Dashboard
	panel  dashboard.Panel
	chosen dashboard.Selection
	span   time.Duration
}

func (a ask) key() string {
	return fmt.Sprint(a.board.Name, a.panel.Title, a.panel.Kind, a.chosen, a.span, len(a.panel.Queries))
}

// draw asks and draws. An error is drawn too: a panel says what it lacks, and stays.
func (s sources) draw(ctx context.Context, a ask, snapshot Snapshot) (template.HTML, error) {
	grid := gridOf(a.span, time.Now())
	expr := func(q dashboard.Query) string { return a.board.Expand(q.Expr, a.chosen, a.span, grid.Step) }
	switch a.panel.Kind {
	case dashboard.Topology:
		return picture(snapshot), nil
	case dashboard.Logs:
		lines, err := s.loki.Query(ctx, expr(a.panel.Queries[0]), observe.Range{Start: grid.Start, End: time.Now()}, 60, observe.NewestFirst)
		if err != nil {
			return "", err
		}
		if len(lines) == 0 {
			return nothing(a.panel), nil
		}
		return drawLines(lines), nil
	case dashboard.Trace:
		found, err := s.tempo.Search(ctx, expr(a.panel.Queries[0]), observe.Range{Start: grid.Start, End: time.Now()}, 20)
		if err != nil {
			return "", err
		}
		if len(found) == 0 {
			return nothing(a.panel), nil
		}
		return drawFound(found), nil
	case dashboard.Table:
		return s.table(ctx, a, expr)
	}
	var all []named
	var exemplars []observe.Exemplar
	for _, q := range a.panel.Queries {
		series, err := s.numbers(ctx, a.panel, q, expr(q), grid)
		if err != nil {
			return "", err
		}
		for _, one := range series {
			all = append(all, named{seriesName(q, one.Labels), one.Points})
		}
		if q.Exemplars {
			// They are an extra: a Prometheus without them draws its lines all the same.
			more, _ := s.prometheus.Exemplars(ctx, expr(q), grid)
			exemplars = append(exemplars, thin(more, grid)...)
		}
	}
	if a.panel.Kind != dashboard.TimeSeries {
		all = slices.DeleteFunc(all, func(n named) bool {
			p, ok := observe.Series{Points: n.points}.Last()
			return !ok || math.IsNaN(p.Value) || grid.End.Sub(p.Time) > max(2*grid.Step, 2*time.Minute)
		})
	}
	if !slices.ContainsFunc(all, func(n named) bool { return !math.IsInf(weight(n), -1) }) {
		return nothing(a.panel), nil
	}
	switch a.panel.Kind {
	case dashboard.Stat:
		return drawStat(a.panel, all, grid), nil
	case dashboard.Bar:
		return drawBars(a.panel, all), nil
	}
	return newChart(a.panel, grid, all, exemplars).draw(), nil
}

func (s sources) numbers(ctx context.Context, p dashboard.Panel, q dashboard.Query, expr string, grid observe.Range) ([]observe.Series, error) {
	if p.SourceOf(q) == dashboard.Loki {
		return s.loki.QueryRange(ctx, expr, grid)
	}
	if p.Kind == dashboard.Bar {
		return s.prometheus.Query(ctx, expr, time.Time{})
	}
	return s.prometheus.QueryRange(ctx, expr, grid)
}

// thin keeps the greatest exemplar of each thirtieth of the time: slow requests are what
// people look for, and a cloud of quick ones hides them.
func thin(all []observe.Exemplar, grid observe.Range) []observe.Exemplar {
	slices.SortStableFunc(all, func(a, b observe.Exemplar) int { return cmp.Compare(b.Value, a.Value) })
	taken := map[int]bool{}
	return slices.DeleteFunc(all, func(e observe.Exemplar) bool {
		i := int(30 * float64(e.Time.Sub(grid.Start)) / float64(grid.End.Sub(grid.Start)))
		if taken[i] || e.TraceID() == "" {
			return true
		}
		taken[i] = true
		return false
	})
}

func seriesName(q dashboard.Query, l observe.Labels) string {
	if q.Legend != "" {
		return cmp.Or(dashboard.Name(q.Legend, func(k string) string { return l[k] }), "all")
	}
	if len(l) == 0 {
		return "value"
	}
	return l.String()
}

// nothing says why a panel is empty: that all is well, or that there is no data.
func nothing(p dashboard.Panel) template.HTML {
	var d drawing
	if p.EmptyWhenHealthy {
		d.f(`<p class="calm">%s%s</p>`, icon(Good), esc(cmp.Or(p.Empty, "Nothing, and that is good.")))
	} else {
		d.f(`<p class="none">No data in this range.</p>`)
	}
	return d.html()
}

// failure says what a panel lacks, in the words of the source.
func failure(err error) template.HTML {
	var d drawing
	text := err.Error()
	switch {
	case errors.Is(err, observe.ErrAbsent):
		text, _, _ = strings.Cut(text, ": ")
		text += "."
	case errors.Is(err, context.DeadlineExceeded):
		text = "No answer in time; asking again."
	}
	d.f(`<p class="none">%s</p>`, esc(text))
	return d.html()
}

func value(p dashboard.Panel, unit dashboard.Unit, v float64) string {
	if name, ok := p.Values[fmt.Sprintf("%g", v)]; ok {
		return name
	}
	return unit.Format(v)
}

var healthOf = map[dashboard.State]Health{dashboard.OK: Good, dashboard.Warning: Starting, dashboard.Critical: Failing}

// drawStat is one large number, or a short list of numbers.
func drawStat(p dashboard.Panel, all []named, grid observe.Range) template.HTML {
	var d drawing
	slices.SortStableFunc(all, func(a, b named) int { return cmp.Compare(a.name, b.name) })
	if len(all) == 1 {
		v := all[0].last()
		state := p.Judge(v)
		d.f(`<div class="stat %s"><strong>`, state)
		if h, judged := healthOf[state]; judged {
			d.f(`%s`, icon(h))
		}
		d.f(`%s</strong>%s</div>`, esc(value(p, p.Unit, v)), spark(all[0].points, grid))
		return d.html()
	}
	d.f(`<dl class="stats">`)
	for _, n := range all[:min(12, len(all))] {
		state := p.Judge(n.last())
		d.f(`<div class="%s"><dt>%s</dt><dd>`, state, esc(n.name))
		if h, judged := healthOf[state]; judged {
			d.f(`%s`, icon(h))
		}
		d.f(`%s</dd></div>`, esc(value(p, p.Unit, n.last())))
	}
	if len(all) > 12 {
		d.f(`<div><dt>and %d more</dt></div>`, len(all)-12)
	}
	d.f(`</dl>`)
	return d.html()
}

// drawBars compares numbers, the greatest first.
func drawBars(p dashboard.Panel, all []named) template.HTML {
	var d drawing
	slices.SortStableFunc(all, func(a, b named) int { return cmp.Compare(b.last(), a.last()) })
	greatest := math.Abs(all[0].last())
	if p.Max != nil {
		greatest = *p.Max
	}
	if greatest == 0 {
		greatest = 1
	}
	shown := all[:min(12, len(all))]
	d.f(`<ul class="bars">`)
	for _, n := range shown {
		v := n.last()
		d.f(`<li class="%[1]s"><span data-tip="%[2]s">%[2]s</span><svg viewBox="0 0 1000 1" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="1000" height="1"/><rect class="bar" width="%[3]s" height="1"/></svg><b>%[4]s</b></li>`,
			p.Judge(v), esc(n.name), num(1000*min(1, math.Abs(v)/greatest)), esc(value(p, p.Unit, v)))
	}
	d.f(`</ul>`)
	if len(all) > len(shown) {
		d.f(`<p class="none">and %d more</p>`, len(all)-len(shown))
	}
	return d.html()
}

const maxRows = 60

// table lays the answers of all queries side by side by the labels.
func (s sources) table(ctx context.Context, a ask, expr func(dashboard.Query) string) (template.HTML, error) {
	p := a.panel
	type row struct {
		labels []string
		values []float64
	}
	rows := map[string]*row{}
	for i, q := range p.Queries {
		series, err := s.prometheus.Query(ctx, expr(q), time.Time{})
		if err != nil {
			return "", err
		}
		for _, one := range series {
			var labels []string
			for _, l := range p.Labels {
				labels = append(labels, one.Labels[l])
			}
			k := strings.Join(labels, "\x00")
			if rows[k] == nil {
				rows[k] = &row{labels, slices.Repeat([]float64{math.NaN()}, len(p.Queries))}
			}
			last, _ := one.Last()
			rows[k].values[i] = last.Value
		}
	}
	if len(rows) == 0 {
		return nothing(p), nil
	}
	sorted := slices.SortedFunc(maps.Values(rows), func(a, b *row) int {
		x, y := a.values[0], b.values[0]
		if math.IsNaN(x) || math.IsNaN(y) || x == y {
			return slices.Compare(a.labels, b.labels)
		}
		return cmp.Compare(y, x)
	})
	var d drawing
	d.f(`<div class="scroll" tabindex="0" role="region" aria-label="%s"><table><thead><tr>`, esc(p.Title))
	for _, l := range p.Labels {
		d.f(`<th scope="col">%s</th>`, esc(strings.ReplaceAll(l, "_", " ")))
	}
	for _, q := range p.Queries {
		d.f(`<th scope="col" class="n">%s</th>`, esc(cmp.Or(q.Legend, "value")))
	}
	d.f(`</tr></thead><tbody>`)
	for _, r := range sorted[:min(maxRows, len(sorted))] {
		d.f(`<tr>`)
		for _, l := range r.labels {
			d.f(`<td>%s</td>`, esc(l))
		}
		for i, v := range r.values {
			d.f(`<td class="n">%s</td>`, esc(value(p, cmp.Or(p.Queries[i].Unit, p.Unit), v)))
		}
		d.f(`</tr>`)
	}
	d.f(`</tbody></table></div>`)
	if len(sorted) > maxRows {
		d.f(`<p class="none">and %d more</p>`, len(sorted)-maxRows)
	}
	return d.html(), nil
}
