package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/observe"
)

// viewFunc makes a page out of what is known when ctx ends.
type viewFunc func(ctx context.Context, r *http.Request) (*view, error)

// view is a page: what a template needs, and the fragments that events replace.
type view struct {
	Template, Title, Environment, Version, Theme string
	Here                                         string // the path, for the menu
	Live                                         string // the address to follow; "" when nothing changes
	Menu                                         []menuItem
	Data                                         any
	fragments                                    []fragment
}

type fragment struct {
	ID   string
	HTML template.HTML
}

type menuItem struct{ Path, Title, Key string }

func (v *view) add(id string, html template.HTML) {
	v.fragments = append(v.fragments, fragment{id, html})
}

// Fragment is a place in a page that events fill anew.
func (v *view) Fragment(id string) template.HTML {
	for _, f := range v.fragments {
		if f.ID == id {
			return f.HTML
		}
	}
	return ""
}

// frame adds what all pages have.
func (c *Console) frame(v *view, r *http.Request) {
	v.Environment, v.Version = c.Environment, c.version
	if cookie, err := r.Cookie(c.cookie + "-theme"); err == nil && (cookie.Value == "dark" || cookie.Value == "light") {
		v.Theme = cookie.Value
	}
	v.Here = r.URL.Path
	v.Live = r.URL.RequestURI()
	for i, d := range c.Dashboards {
		key := ""
		if i < 9 {
			key = itoa(i + 1)
		}
		v.Menu = append(v.Menu, menuItem{"/d/" + d.Name, d.Title, key})
	}
	seen := c.watcher.view()
	s, at, stale, since := seen.snapshot, seen.at, seen.stale, seen.since
	v.add("pulse", drawPulse(s, at, stale))
	v.add("banner", drawBanner(s, at, stale, since))
}

func drawPulse(s Snapshot, at time.Time, stale error) template.HTML {
	var d drawing
	switch {
	case at.IsZero() && stale == nil:
		d.f(`<span class="pill">%s looking</span>`, icon(Done))
	case stale != nil:
		d.f(`<span class="pill away">%s not answering</span>`, icon(Starting))
	default:
		h := s.worst()
		word := map[Health]string{Good: "all is well", Starting: "settling", Failing: "needs attention", Off: s.Phase}[h]
		d.f(`<span class="pill %s">%s %s</span>`, h, icon(h), esc(word))
	}
	return d.html()
}

// drawBanner says that the cluster is away, and since when, above everything.
func drawBanner(s Snapshot, at time.Time, stale error, since time.Time) template.HTML {
	if stale == nil {
		return ""
	}
	var d drawing
	d.f(`<div class="banner" role="status">%s<div><strong>`, icon(Starting))
	switch s.Phase {
	case "stopped":
		d.f(`The environment is stopped.</strong> <span>Bring it back with <code>orrery start</code>. `)
	case "absent":
		d.f(`The environment is gone.</strong> <span>Make it again with <code>orrery up</code>. `)
	default:
		d.f(`The cluster does not answer</strong> <span>since <time datetime="%s">%s</time>. `, since.UTC().Format(time.RFC3339), since.Local().Format("15:04:05"))
	}
	if !at.IsZero() {
		d.f(`What you see is from <time datetime="%s">%s</time>; this page goes on by itself.</span>`, at.UTC().Format(time.RFC3339), at.Local().Format("15:04:05"))
	} else {
		d.f(`This page goes on by itself.</span>`)
	}
	d.f(`<small>%s</small></div></div>`, esc(cut(stale.Error(), 300)))
	return d.html()
}

// spans that a person can choose.
var spans = []struct {
	Text string
	D    time.Duration
}{{"15m", 15 * time.Minute}, {"30m", 30 * time.Minute}, {"1h", time.Hour}, {"3h", 3 * time.Hour}, {"12h", 12 * time.Hour}, {"2d", 48 * time.Hour}}

func spanOf(text string, otherwise time.Duration) time.Duration {
	for _, s := range spans {
		if s.Text == text {
			return s.D
		}
	}
	return otherwise
}

type choice struct {
	Text, Href string
	Chosen     bool
}

// choices of a span as links that keep the rest of the address.
func choices(u *url.URL, now time.Duration) []choice {
	var all []choice
	for _, s := range spans {
		q := u.Query()
		q.Set("range", s.Text)
		all = append(all, choice{s.Text, u.Path + "?" + q.Encode(), s.D == now})
	}
	return all
}

type boardData struct {
	Board     dashboard.Dashboard
	Ranges    []choice
	Range     string
	Variables []variableData
	Rows      []rowData
	Grafana   string
}

type variableData struct {
	dashboard.Variable
	Values []string
	Chosen string
}

type rowData struct {
	Title  string
	Panels []panelData
}

type panelData struct {
	dashboard.Panel
	ID    string
	Class string
}

func (c *Console) board(ctx context.Context, r *http.Request) (*view, error) {
	i := slices.IndexFunc(c.Dashboards, func(d dashboard.Dashboard) bool { return d.Name == r.PathValue("name") })
	if i < 0 {
		return nil, fmt.Errorf("There is no dashboard %q.", r.PathValue("name")) //nolint:staticcheck // it is what the page says
	}
	board := c.Dashboards[i]
	q := r.URL.Query()
	span := spanOf(q.Get("range"), board.Span())
	data := boardData{Board: board, Ranges: choices(r.URL, span), Range: q.Get("range")}
	chosen := dashboard.Selection{}
	for _, v := range board.Variables {
		value := v.Default
		if q.Has(v.Name) {
			value = cut(q.Get(v.Name), 200)
		}
		chosen[v.Name] = value
		vd := variableData{Variable: v, Chosen: value}
		if !v.Text {
			vd.Values = c.values(ctx, v)
			if value != "" && !slices.Contains(vd.Values, value) {
				vd.Values = append([]string{value}, vd.Values...)
			}
		}
		data.Variables = append(data.Variables, vd)
	}
	v := &view{Template: "board.html", Title: board.Title}
	type slot struct {
		id string
		a  ask
	}
	var slots []slot
	for i, row := range board.Rows {
		rd := rowData{Title: row.Title}
		for j, p := range row.Panels {
			id := fmt.Sprintf("p-%d-%d", i, j)
			rd.Panels = append(rd.Panels, panelData{p, id, fmt.Sprintf("w%d h%d k-%s", p.WidthOr(), p.HeightOr(), p.Kind)})
			slots = append(slots, slot{id, ask{board, p, chosen, span}})
		}
		data.Rows = append(data.Rows, rd)
	}
	// All at once: the drawer keeps order among them.
	html := make([]template.HTML, len(slots))
	done := make(chan int, len(slots))
	for i, s := range slots {
		go func() {
			h, stale, ok := c.drawer.get(ctx, s.a)
			switch {
			case !ok:
				h = `<p class="wait"><span class="sr">loading</span></p>`
			case stale:
				h = `<p class="stale">from before; asking again</p>` + h
			}
			html[i] = h
			done <- i
		}()
	}
	for range slots {
		<-done
	}
	for i, s := range slots {
		v.add(s.id, html[i])
	}
	v.Data = data
	return v, nil
}

// values of a variable, as far as they come in time.
func (c *Console) values(ctx context.Context, v dashboard.Variable) []string {
	var all []string
	if v.Source == dashboard.Loki {
		all, _ = c.sources.loki.LabelValues(ctx, v.Label, v.Match, observe.Last(6*time.Hour))
	} else {
		all, _ = c.sources.prometheus.LabelValues(ctx, v.Label, v.Match)
	}
	return all[:min(len(all), 300)]
}

type logsData struct {
	Query, Range string
	Ranges       []choice
	Examples     []choice
}

var logExamples = []struct{ text, logql string }{
	{"everything", `{service_name=~".+"}`},
	{"errors", `{service_name=~".+"} |~ "(?i)error|fatal|panic"`},
	{"messaging", `{k8s_namespace_name="messaging"}`},
	{"observability", `{k8s_namespace_name="observability"}`},
	{"pulse", `{service_name=~"pulse.*"}`},
}

func (c *Console) logs(ctx context.Context, r *http.Request) (*view, error) {
	q := r.URL.Query()
	query := cmp.Or(strings.TrimSpace(q.Get("q")), logExamples[0].logql)
	span := spanOf(q.Get("range"), time.Hour)
	data := logsData{Query: query, Range: q.Get("range"), Ranges: choices(r.URL, span)}
	for _, e := range logExamples {
		data.Examples = append(data.Examples, choice{e.text, logsOf(e.logql), e.logql == query})
	}
	v := &view{Template: "logs.html", Title: "Logs", Data: data}
	var html template.HTML
	switch {
	case len(query) > 4000:
		html = `<p class="none">This query is too long.</p>`
	case observe.IsNumeric(query):
		html = `<p class="none">A search selects lines: begin with a selector, such as {service_name="pulse"}. Numbers belong on a dashboard.</p>`
	default:
		h, stale, ok := c.drawer.get(ctx, ask{dashboard.Dashboard{Name: "logs search"}, dashboard.Panel{Title: query, Kind: dashboard.Logs, Height: 200, Queries: []dashboard.Query{{Expr: query}}}, nil, span})
		html = h
		if !ok {
			html = `<p class="wait"><span class="sr">loading</span></p>`
		} else if stale {
			html = `<p class="stale">from before; asking again</p>` + h
		}
	}
	v.add("lines", html)
	return v, nil
}

type tracesData struct {
	Query, Range string
	Ranges       []choice
	Examples     []choice
}

func (c *Console) traces(ctx context.Context, r *http.Request) (*view, error) {
	q := r.URL.Query()
	query := cmp.Or(strings.TrimSpace(q.Get("q")), "{}")
	span := spanOf(q.Get("range"), time.Hour)
	data := tracesData{Query: query, Range: q.Get("range"), Ranges: choices(r.URL, span)}
	for _, e := range []struct{ text, q string }{{"newest", "{}"}, {"failed", "{ status = error }"}, {"slow", "{ duration > 100ms }"}} {
		data.Examples = append(data.Examples, choice{e.text, "/traces?" + url.Values{"q": {e.q}}.Encode(), e.q == query})
	}
	v := &view{Template: "traces.html", Title: "Traces", Data: data}
	html, stale, ok := c.drawer.get(ctx, ask{dashboard.Dashboard{Name: "trace search"}, dashboard.Panel{Title: query, Kind: dashboard.Trace, Queries: []dashboard.Query{{Expr: query}}}, nil, span})
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
		facts := fmt.Sprintf(`%s · %s · %s · began %s`, esc(dashboard.Duration(t.Duration())), esc(count(len(t.Spans), "span", "spans")), esc(count(len(services), "service", "services")), t.Start().Local().Format("2 Jan 15:04:05"))
		if failed > 0 {
			facts += " · " + count(failed, "span failed", "spans failed")
		}
		v.add("trace", template.HTML(`<p class="sub">`+facts+`</p>`)+drawTrace(t)) //nolint:gosec // all parts are escaped
		data.Facts = t.Spans[0].Name
	}
	v.Data = data
	return v, nil
}

func (c *Console) verify(context.Context, *http.Request) (*view, error) {
	v := &view{Template: "verify.html", Title: "Verify"}
	now := c.verifier.view()
	if now.Began.IsZero() && c.Earlier != nil {
		now.Earlier = c.Earlier()
	}
	v.add("checks", drawVerification(now))
	return v, nil
}

func drawVerification(v verification) template.HTML {
	var d drawing
	disabled := ""
	if v.Running || !v.Possible {
		disabled = " disabled"
	}
	d.f(`<form method="post" action="/verify"><button class="primary"%s>`, disabled)
	switch {
	case v.Running:
		d.f(`Checking …`)
	case v.Began.IsZero():
		d.f(`Verify now`)
	default:
		d.f(`Verify again`)
	}
	d.f(`</button></form>`)
	if v.Began.IsZero() {
		if !v.Possible {
			d.f(`<p class="none">Checks cannot be run from here: start the console inside the repository, and where the checks' images are built.</p>`)
		} else {
			d.f(`<p class="none">Not verified since this console began. The checks write and read real data and take away what they made; it takes about half a minute.</p>`)
		}
		if len(v.Earlier) == 0 {
			return d.html()
		}
		v.Checks = v.Earlier
	}
	count := map[string]int{}
	for _, c := range v.Checks {
		count[c.State]++
	}
	d.f(`<p class="sub" role="status">%d passed, %d failed, %d skipped`, count["succeeded"], count["failed"], count["skipped"])
	switch {
	case v.Running:
		d.f(`, %d under way`, count["running"])
	case v.Began.IsZero():
		first, last := v.Checks[0].At, v.Checks[0].At
		for _, c := range v.Checks {
			if c.At.Before(first) {
				first = c.At
			}
			if c.At.After(last) {
				last = c.At
			}
		}
		d.f(` · the last results of orrery up, verify or a console, of %s`, first.Local().Format("2 Jan 15:04:05"))
		if last.Sub(first) > time.Minute {
			d.f(` to %s`, last.Local().Format("2 Jan 15:04:05"))
		}
	default:
		d.f(` · took %s · at %s`, esc(dashboard.Duration(v.Ended.Sub(v.Began).Round(100*time.Millisecond))), v.Began.Local().Format("15:04:05"))
	}
	d.f(`</p>`)
	if v.Failed != nil {
		d.f(`<p class="none">%s</p>`, esc(v.Failed.Error()))
	}
	checks := slices.Clone(v.Checks)
	rank := map[string]int{"failed": 0, "running": 1, "succeeded": 2, "skipped": 3}
	slices.SortStableFunc(checks, func(a, b Check) int {
		return cmp.Or(cmp.Compare(rank[a.State], rank[b.State]), cmp.Compare(a.Component, b.Component), cmp.Compare(a.Name, b.Name))
	})
	d.f(`<ul class="checks">`)
	for _, k := range checks {
		h := map[string]Health{"succeeded": Good, "failed": Failing, "running": Starting}[k.State]
		d.f(`<li class="%s">%s<span class="sr">%s</span><b>%s</b><span>%s</span><em>%s</em>`, esc(k.State), icon(h), esc(k.State), esc(k.Name), esc(k.Component), esc(cut(k.Detail, 600)))
		if k.State != "running" {
			d.f(`<i>%s</i>`, esc(dashboard.Seconds.Format(k.Seconds)))
		}
		d.f(`</li>`)
	}
	d.f(`</ul>`)
	return d.html()
}
