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

func (c *Console) overview(context.Context, *http.Request) (*view, error) {
	seen := c.watcher.view()
	s, at := seen.snapshot, seen.at
	v := &view{Template: "overview.html", Title: "Overview"}
	if at.IsZero() && len(s.Nodes) == 0 {
		v.add("headline", `<h1>Looking …</h1>`)
		return v, nil
	}
	var d drawing
	d.f(`<h1>%s</h1><p class="sub">%s · as of <time datetime="%s">%s</time></p>`, esc(s.headline()), esc(strings.TrimSuffix(count(len(s.Nodes), "node", "nodes")+" in "+count(len(s.zones()), "zone", "zones")+" · "+s.Note, " · ")), at.UTC().Format(time.RFC3339), at.Local().Format("15:04:05"))
	v.add("headline", d.html())
	v.add("topology", picture(s))
	v.add("components", drawComponents(s.Components))
	v.add("alerts", drawAlerts(s))
	v.add("endpoints", drawEndpoints(s.Endpoints))
	return v, nil
}

// picture is the whole topology: a column for each zone, a planet for each node.
func picture(s Snapshot) template.HTML {
	var d drawing
	d.f(`<div class="zones">`)
	for _, z := range s.zones() {
		d.f(`<section class="zone" aria-label="zone %[1]s"><h3>Zone %[1]s</h3><div class="nodes">`, esc(z.Name))
		for _, n := range z.Nodes {
			drawCard(&d, n)
		}
		d.f(`</div></section>`)
	}
	d.f(`</div>`)
	if len(s.Pending) > 0 {
		d.f(`<p class="pending">%s On no node yet: `, icon(Starting))
		for i, p := range s.Pending {
			if i > 0 {
				d.f(`, `)
			}
			d.f(`<span data-tip="%s">%s/%s</span>`, esc(tip(p)), esc(p.Namespace), esc(p.Name))
		}
		d.f(`</p>`)
	}
	d.f(`<p class="key-line"><span>%s ready</span><span>%s starting</span><span>%s failing</span><span>%s done or stopped</span><span class="hint">Moons are pods: near the planet the cluster itself, then what watches it, far out what people came for. Planets with a ring run a control plane.</span></p>`,
		icon(Good), icon(Starting), icon(Failing), icon(Done))
	return d.html()
}

func drawCard(d *drawing, n Node) {
	d.f(`<article class="node %s"><div class="sky">%s</div><h4>%s%s</h4><p class="role">%s · %s</p>`, n.Health, drawNode(n), icon(n.Health), esc(n.Name), esc(n.Role), esc(n.Address))
	if n.Health != Good {
		d.f(`<p class="state">%s</p>`, esc(n.State))
	}
	for _, u := range []struct {
		name string
		Usage
	}{{"cpu", n.CPU}, {"memory", n.Memory}} {
		if u.Known {
			d.f(`<p class="usage"><span>%s</span><svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="1"/><rect class="bar" width="%s" height="1"/></svg><b>%s</b></p>`, u.name, num(100*min(1, max(0.01, u.Share))), esc(u.Text))
		}
	}
	d.f(`<details data-keep="pods-%[1]s"><summary>%[2]s<span class="sr"> on %[1]s</span></summary><ul class="pods">`, esc(n.Name), esc(count(len(n.Pods), "pod", "pods")))
	for _, p := range n.Pods {
		d.f(`<li>%s<a href="%s"><span>%s/</span>%s</a>`, icon(p.Health), esc(podLogs(p)), esc(p.Namespace), esc(p.Name))
		if p.Health != Good {
			d.f(`<em>%s</em>`, esc(cmp.Or(p.Reason, string(p.Health))))
		}
		d.f(`</li>`)
	}
	d.f(`</ul></details></article>`)
}

func drawComponents(all []Component) template.HTML {
	var d drawing
	if len(all) == 0 {
		d.f(`<p class="none">No component is deployed.</p>`)
		return d.html()
	}
	d.f(`<ul class="components">`)
	for _, c := range all {
		d.f(`<li class="%s">%s<span class="sr">%s</span><b>%s</b><span>%s</span>`, c.Health, icon(c.Health), c.Health, esc(c.Name), esc(c.Namespace))
		if c.Reason != "" {
			d.f(`<em>%s</em>`, esc(cut(c.Reason, 240)))
		}
		d.f(`</li>`)
	}
	d.f(`</ul>`)
	return d.html()
}

func drawAlerts(s Snapshot) template.HTML {
	var d drawing
	if s.AlertsUnknown != "" {
		d.f(`<p class="none">%s</p>`, esc(s.AlertsUnknown))
		return d.html()
	}
	if len(s.Alerts) == 0 {
		d.f(`<p class="calm">%s No alert fires.</p>`, icon(Good))
		return d.html()
	}
	d.f(`<ul class="alerts">`)
	for _, group := range groupAlerts(s.Alerts) {
		a := group[0]
		h := Starting
		if a.Severity == "critical" && a.State == "firing" {
			h = Failing
		}
		if a.State == "pending" || a.Severity == "none" || a.Severity == "info" {
			h = Done
		}
		d.f(`<li>%s<div><b>%s</b> <span class="tag">%s</span> <span class="tag">%s</span>`, icon(h), esc(a.Name), esc(cmp.Or(a.Severity, "no severity")), esc(a.State))
		if !a.Since.IsZero() {
			d.f(` <span class="tag">since <time datetime="%s">%s</time></span>`, a.Since.UTC().Format(time.RFC3339), a.Since.Local().Format("15:04"))
		}
		if strings.HasPrefix(a.Runbook, "https://") {
			d.f(` <a href="%s" target="_blank" rel="noopener noreferrer">runbook</a>`, esc(a.Runbook))
		}
		d.f(`<p>%s</p>`, esc(cut(cmp.Or(a.Summary, a.Labels), 300)))
		if more := group[1:]; len(more) > 0 {
			d.f(`<details data-keep="alert-%s-%s"><summary>and %d more</summary>`, esc(a.Name), esc(a.State), len(more))
			for _, m := range more {
				d.f(`<p>%s</p>`, esc(cut(cmp.Or(m.Summary, m.Labels), 300)))
			}
			d.f(`</details>`)
		}
		d.f(`</div></li>`)
	}
	d.f(`</ul>`)
	return d.html()
}

// groupAlerts puts alerts of one rule and state together, in the order of the first of each.
func groupAlerts(all []Alert) (groups [][]Alert) {
	at := map[[3]string]int{}
	for _, a := range all {
		key := [3]string{a.Name, a.Severity, a.State}
		i, known := at[key]
		if !known {
			i = len(groups)
			at[key] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], a)
	}
	return groups
}

func drawEndpoints(all []Endpoint) template.HTML {
	var d drawing
	d.f(`<ul class="endpoints">`)
	for _, e := range all {
		d.f(`<li><b>%s</b>`, esc(e.Name))
		if e.Link && (strings.HasPrefix(e.Address, "http://") || strings.HasPrefix(e.Address, "https://")) {
			d.f(`<a class="mono" href="%[1]s" target="_blank" rel="noopener noreferrer">%[1]s</a>`, esc(e.Address))
		} else {
			d.f(`<code>%s</code>`, esc(e.Address))
		}
		d.f(`<button type="button" class="copy" data-copy="%s">copy<span class="sr"> %s</span></button></li>`, esc(e.Address), esc(e.Name))
	}
	d.f(`</ul>`)
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
	v.add("checks", drawVerification(c.verifier.view()))
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
		return d.html()
	}
	count := map[string]int{}
	for _, c := range v.Checks {
		count[c.State]++
	}
	d.f(`<p class="sub" role="status">%d passed, %d failed, %d skipped`, count["succeeded"], count["failed"], count["skipped"])
	if v.Running {
		d.f(`, %d under way`, count["running"])
	} else {
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
