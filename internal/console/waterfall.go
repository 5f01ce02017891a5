package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/observe"
)

// maxSpans of a trace are drawn; more would be no picture.
const maxSpans = 400

// drawTrace is a waterfall: a row for each span, its bar where it was in time, its
// attributes behind a click.
func drawTrace(t observe.Trace) template.HTML {
	start, whole := t.Start(), max(t.Duration(), time.Nanosecond)
	colours := map[string]int{}
	for _, s := range t.Spans {
		if _, ok := colours[s.Service]; !ok {
			colours[s.Service] = len(colours) % 8
		}
	}
	var d drawing
	d.f(`<ul class="legend">`)
	for _, service := range slices.Sorted(maps.Keys(colours)) {
		d.f(`<li><i class="key s%d"></i><span>%s</span></li>`, colours[service], esc(service))
	}
	d.f(`</ul><div class="fall"><div class="scale" aria-hidden="true"><span>0</span><span>%s</span><span>%s</span></div><ol>`,
		esc(dashboard.Duration(whole/2)), esc(dashboard.Duration(whole)))
	for _, s := range t.Spans[:min(maxSpans, len(t.Spans))] {
		drawSpan(&d, s, s.Start.Sub(start), whole, colours[s.Service])
	}
	d.f(`</ol></div>`)
	if more := len(t.Spans) - maxSpans; more > 0 {
		d.f(`<p class="none">and %d more spans; all of them: orrery trace %s -o json</p>`, more, t.ID)
	}
	return d.html()
}

func drawSpan(d *drawing, s observe.Span, offset, whole time.Duration, colour int) {
	x := 1000 * float64(offset) / float64(whole)
	w := max(3, 1000*float64(s.Duration)/float64(whole))
	x = min(x, 1000-w)
	failed := ""
	if s.Failed {
		failed = " failed"
	}
	d.f(`<li class="span d%d%s"><details><summary><span class="who"><b>%s</b> <i>%s</i>`, min(s.Depth, 10), failed, esc(s.Name), esc(s.Service))
	if s.Failed {
		d.f(` %s<span class="sr">failed</span>`, icon(Failing))
	}
	d.f(`</span><svg viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true"><path class="mark" d="M500 0V10M999.5 0V10M.5 0V10"/><rect class="s%d" x="%s" y="1.5" width="%s" height="7"/>`,
		colour, num(x), num(w))
	for _, e := range s.Events {
		at := 1000 * float64(offset+e.Time.Sub(s.Start)) / float64(whole)
		if at >= 0 && at <= 1000 {
			d.f(`<path class="event" d="M%s 0V10"/>`, num(at))
		}
	}
	d.f(`</svg><span class="took">%s</span></summary><dl>`, esc(dashboard.Duration(s.Duration)))
	if s.Message != "" {
		d.f(`<div><dt>failure</dt><dd>%s</dd></div>`, esc(s.Message))
	}
	d.f(`<div><dt>began</dt><dd>%s after the first, %s</dd></div>`, esc(dashboard.Duration(offset)), s.Start.Local().Format("15:04:05.000000"))
	if s.Kind != "" {
		d.f(`<div><dt>kind</dt><dd>%s</dd></div>`, esc(s.Kind))
	}
	for _, e := range s.Events {
		d.f(`<div><dt>event</dt><dd>%s %s %s</dd></div>`, esc(dashboard.Duration(e.Time.Sub(s.Start))), esc(e.Name), esc(cut(attributesOf(e.Attributes), 400)))
	}
	for _, l := range s.Links {
		if id, err := observe.ParseTraceID(l.TraceID); err == nil {
			d.f(`<div><dt>link</dt><dd><a href="/traces/%s">trace %s</a></dd></div>`, id, id[:8])
		}
	}
	for _, set := range []observe.Labels{s.Attributes, s.Resource} {
		for _, k := range slices.Sorted(maps.Keys(set)) {
			d.f(`<div><dt>%s</dt><dd>%s</dd></div>`, esc(k), esc(cut(set[k], 400)))
		}
	}
	d.f(`</dl></details></li>`)
}

func attributesOf(l observe.Labels) string {
	if len(l) == 0 {
		return ""
	}
	return fmt.Sprint(l)
}

func (c *Console) traces(ctx context.Context, r *http.Request) (*view, error) {
	q := r.URL.Query()
	query := cmp.Or(strings.TrimSpace(q.Get("q")), "{}")
	span := spanOf(q.Get("range"), time.Hour)
	data := queryData{Query: query, Range: q.Get("range"), Ranges: choices(r.URL, span)}
	for _, e := range []struct{ text, q string }{{"newest", "{}"}, {"failed", "{ status = error }"}, {"slow", "{ duration > 100ms }"}} {
		data.Examples = append(data.Examples, choice{e.text, "/traces?" + url.Values{"q": {e.q}}.Encode(), e.q == query})
	}
	v := &view{Template: "traces.html", Title: "Traces", Data: data}
	html, stale, ok := c.drawer.get(ctx, ask{dashboard.Dashboard{Name: "trace search"},
		dashboard.Panel{Title: query, Kind: dashboard.Trace, Queries: []dashboard.Query{{Expr: query}}}, nil, span})
	if !ok {
		html = `<p class="wait"><span class="sr">loading</span></p>`
	} else if stale {
		html = `<p class="stale">from before; asking again</p>` + html
	}
	v.add("found", html)
	return v, nil
}

type traceData struct {
	ID, Facts, Logs string
}

func (c *Console) trace(ctx context.Context, r *http.Request) (*view, error) {
	id, err := observe.ParseTraceID(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	data := traceData{ID: id, Logs: logsOf(fmt.Sprintf(`{service_name=~".+"} | trace_id=%q`, id))}
	v := &view{Template: "trace.html", Title: "Trace " + id[:8]}
	// A trace is what the page is about: worth a moment longer.
	slow, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	t, err := c.sources.tempo.Trace(slow, id)
	switch {
	case errors.Is(err, observe.ErrNotFound):
		v.add("trace", `<p class="none">There is no such trace (yet). A new one can be read some seconds after its last span; this page looks again by itself.</p>`)
	case err != nil:
		v.add("trace", failure(err))
	default:
		services := map[string]bool{}
		failed := 0
		for _, s := range t.Spans {
			services[s.Service] = true
			if s.Failed {
				failed++
			}
		}
		facts := fmt.Sprintf(`%s · %s · %s · began %s`,
			esc(dashboard.Duration(t.Duration())), esc(count(len(t.Spans), "span", "spans")),
			esc(count(len(services), "service", "services")),
			t.Start().Local().Format("2 Jan 15:04:05"))
		if failed > 0 {
			facts += " · " + count(failed, "span failed", "spans failed")
		}
		v.add("trace", template.HTML(`<p class="sub">`+facts+`</p>`)+drawTrace(t)) //nolint:gosec // all parts are escaped
		data.Facts = t.Spans[0].Name
	}
	v.Data = data
	return v, nil
}
