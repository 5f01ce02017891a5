package console

import (
	"context"
	"html/template"
	"net/http"
	"net/url"
	"time"
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
	if cookie, err := r.Cookie(themeCookie); err == nil && (cookie.Value == "dark" || cookie.Value == "light") {
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
