package console

import (
	"cmp"
	"context"
	"html/template"
	"net/http"
	"strings"
	"time"
)

func (c *Console) overview(context.Context, *http.Request) (*view, error) {
	seen := c.watcher.view()
	s, at := seen.snapshot, seen.at
	v := &view{Template: "overview.html", Title: "Overview"}
	if at.IsZero() && len(s.Nodes) == 0 {
		v.add("headline", `<h1>Looking …</h1>`)
		return v, nil
	}
	var d drawing
	d.f(`<h1>%s</h1><p class="sub">%s · as of <time datetime="%s">%s</time></p>`,
		esc(s.headline()),
		esc(strings.TrimSuffix(count(len(s.Nodes), "node", "nodes")+" in "+count(len(s.zones()), "zone", "zones")+" · "+s.Note, " · ")),
		at.UTC().Format(time.RFC3339), at.Local().Format("15:04:05"))
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
	d.f(`<article class="node %s"><div class="sky">%s</div><h4>%s%s</h4><p class="role">%s · %s</p>`,
		n.Health, drawNode(n), icon(n.Health), esc(n.Name), esc(n.Role), esc(n.Address))
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
