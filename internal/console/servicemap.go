package console

import (
	"cmp"
	"context"
	"fmt"
	"html/template"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/dashboard"
	"github.com/orrery-dev/orrery/internal/flow"
)

// mapData is what the page of the service map is asked for.
type mapData struct {
	Namespaces []string
	Namespace  string
	Of         string // a peer whose edges are looked at
	Dropped    bool   // only edges with drops
	All        string // address without Of
}

func (c *Console) serviceMap(_ context.Context, r *http.Request) (*view, error) {
	q := r.URL.Query()
	data := mapData{Namespace: cut(q.Get("namespace"), 200), Of: cut(q.Get("of"), 300), Dropped: q.Get("dropped") != ""}
	v := &view{Template: "map.html", Title: "Service map"}
	t := c.flows.view(time.Now())
	namespaces := map[string]bool{}
	for _, e := range t.Edges {
		namespaces[e.From.Namespace], namespaces[e.To.Namespace] = true, true
	}
	delete(namespaces, "")
	if data.Namespace != "" {
		namespaces[data.Namespace] = true
	}
	data.Namespaces = slices.Sorted(maps.Keys(namespaces))
	all := url.Values{}
	if data.Namespace != "" {
		all.Set("namespace", data.Namespace)
	}
	if data.Dropped {
		all.Set("dropped", "1")
	}
	data.All = mapAddress(all)
	edges := data.selected(t.Edges)
	v.Data = data
	v.add("headline", c.mapHeadline(t))
	v.add("map", drawMap(edges, data, all, c.Flows != nil && t.Seen == 0 && t.Failed == nil))
	v.add("edges", drawEdges(edges, data))
	return v, nil
}

func mapAddress(q url.Values) string {
	if len(q) == 0 {
		return "/map"
	}
	return "/map?" + q.Encode()
}

// selected are the edges to show. Those that do not touch Of stay: they are dimmed.
func (d mapData) selected(edges []flow.Edge) []flow.Edge {
	return slices.DeleteFunc(slices.Clone(edges), func(e flow.Edge) bool {
		return d.Namespace != "" && e.From.Namespace != d.Namespace && e.To.Namespace != d.Namespace || d.Dropped && e.Dropped == 0
	})
}

// touches tells whether an edge belongs to what was chosen.
func (d mapData) touches(e flow.Edge) bool {
	return d.Of == "" || e.From.String() == d.Of || e.To.String() == d.Of
}

func (c *Console) mapHeadline(t traffic) template.HTML {
	var d drawing
	peers, ways, dropping := map[flow.Peer]bool{}, 0, 0
	for _, e := range t.Edges {
		peers[e.From], peers[e.To] = true, true
		ways++
		if e.Dropped > 0 {
			dropping++
		}
	}
	switch {
	case c.Flows == nil:
		d.f(`<h1>No flows</h1><p class="sub">This environment keeps no record of what its network sees.</p>`)
		return d.html()
	case ways == 0 && t.Failed != nil:
		d.f(`<h1>No flows</h1>%s`, failure(t.Failed))
		return d.html()
	case ways == 0:
		d.f(`<h1>Listening …</h1><p class="sub">What the network sees appears here within seconds.</p>`)
		return d.html()
	case dropping == 0:
		d.f(`<h1>%s, and nothing is dropped.</h1>`, esc(upper(plural(ways, "way", "ways"))))
	default:
		d.f(`<h1>Packets are dropped on %s.</h1>`, esc(plural(dropping, "way", fmt.Sprintf("of %d ways", ways))))
	}
	d.f(`<p class="sub">%s · what the network saw in the last minute · as of <time datetime="%s">%s</time></p>`,
		esc(count(len(peers), "peer", "peers")), t.At.UTC().Format(time.RFC3339), t.At.Local().Format("15:04:05"))
	if t.Failed != nil {
		d.f(`<p class="stale">Nothing new comes: %s</p>`, esc(cut(t.Failed.Error(), 300)))
	}
	for _, node := range slices.Sorted(maps.Keys(t.Trouble)) {
		d.f(`<p class="stale">What %s sees is missing or not whole: %s</p>`, esc(cmp.Or(node, "a node")), esc(cut(t.Trouble[node].Error(), 200)))
	}
	return d.html()
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// rate in events a minute: many ways are quiet.
func rate(v float64) string { return dashboard.Count.Format(math.Round(60*v)) + "/min" }

// drawMap draws who speaks to whom. Peers are links that choose; the list below says the same
// in words.
func drawMap(edges []flow.Edge, data mapData, all url.Values, listening bool) template.HTML {
	var d drawing
	edges, more := busiest(edges, mostPeers)
	if len(edges) == 0 {
		if listening {
			d.f(`<p class="wait"><span class="sr">loading</span></p>`)
		} else if data.Dropped {
			d.f(`<p class="calm">%s Nothing was dropped in the last minute.</p>`, icon(Good))
		} else {
			d.f(`<p class="none">Nobody speaks here.</p>`)
		}
		return d.html()
	}
	picture := layout(edges)
	peers := slices.SortedFunc(maps.Values(picture.places), func(a, b *place) int {
		return cmp.Or(cmp.Compare(a.x, b.x), cmp.Compare(a.y, b.y))
	})
	dropping := 0
	for _, e := range edges {
		if e.Dropped > 0 {
			dropping++
		}
	}
	d.f(`<div class="scroll flowmap"><svg viewBox="0 0 %[1]s %[2]s" width="%[1]s" height="%[2]s" role="group" aria-label="%[3]s">`, num(picture.width), num(picture.height),
		esc(fmt.Sprintf("Service map: %s, %s, %d with drops; the list below says the same",
			count(len(picture.places), "peer", "peers"), count(len(edges), "way", "ways"), dropping)))
	for _, kind := range []string{"ok", "drop", "quiet"} {
		d.f(`<marker id="to-%[1]s" class="head %[1]s" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L8 4L0 8z"/></marker>`, kind)
	}
	// What is dropped lies on top.
	slices.SortStableFunc(edges, func(a, b flow.Edge) int { return cmp.Compare(a.Dropped, b.Dropped) })
	for i, e := range edges {
		picture.drawEdge(&d, e, data.touches(e), 3*float64(i%5-2))
	}
	for _, p := range peers {
		drawPeer(&d, p, edges, data, all)
	}
	d.f(`</svg></div>`)
	if more > 0 {
		d.f(`<p class="none">%s with less traffic are in the list only; choose a namespace to see them.</p>`, esc(upper(plural(more, "peer", "peers"))))
	}
	d.f(`<p class="key-line"><span><i class="way"></i>forwarded, wider for more</span><span><i class="way drop"></i>dropped</span><span><i class="way rest"></i>quiet for a minute</span><span class="hint">Who calls stands left of who is called. A number is events a minute: packets, or the sign of many that look alike.</span></p>`)
	return d.html()
}

func drawPeer(d *drawing, p *place, edges []flow.Edge, data mapData, all url.Values) {
	name := p.peer.String()
	class := "peer"
	chosen := data.Of == name
	if chosen {
		class += " chosen"
	}
	if data.Of != "" && !chosen && !slices.ContainsFunc(edges, func(e flow.Edge) bool {
		return data.touches(e) && (e.From == p.peer || e.To == p.peer)
	}) {
		class += " dim"
	}
	if p.dropsHere {
		class += " drops"
	}
	if p.peer.Namespace == "" {
		class += " outer"
	}
	q := maps.Clone(all)
	words := "choose"
	if chosen {
		words = "choose all instead"
	} else {
		q.Set("of", name)
	}
	d.f(`<a class="%s" href="%s" data-focus="%s" data-tip="%s"%s>`,
		class, esc(mapAddress(q)), esc(name),
		esc(fmt.Sprintf("%s\n%s in, %s out\n%s", name, rate(p.in), rate(p.out), words)),
		map[bool]string{true: ` aria-current="true"`}[chosen])
	d.f(`<rect x="%s" y="%s" width="%s" height="%s" rx="9"/>`, num(p.x), num(p.y), num(peerWidth), num(peerHeight))
	under := cmp.Or(p.peer.Namespace,
		map[flow.Peer]string{flow.Nodes: "kubelets and hosts", flow.APIServer: "control plane",
			flow.World: "outside", flow.Unknown: "no owner known"}[p.peer])
	d.f(`<text class="name" x="%s" y="%s">%s</text><text class="ns" x="%s" y="%s">%s</text></a>`,
		num(p.x+11), num(p.y+17.5), esc(cut(p.peer.Name, 19)), num(p.x+11), num(p.y+32), esc(cut(under, 27)))
}

// drawEdge draws a line from who calls to who is called, between those who have nothing to do
// with it. Lines beside each other are lane apart.
func (m mapPicture) drawEdge(d *drawing, e flow.Edge, touched bool, lane float64) {
	kind := "ok"
	switch {
	case e.Dropped > 0:
		kind = "drop"
	case e.Forwarded == 0:
		kind = "quiet"
	}
	class := "edge " + kind
	if !touched {
		class += " dim"
	}
	path := m.line(m.places[e.From], m.places[e.To], lane)
	width := 1 + min(4.5, 0.9*math.Log2(1+e.Forwarded+e.Dropped))
	d.f(`<g class="%s" data-tip="%s"><path class="line-hit" d="%s"/><path d="%s" stroke-width="%s" marker-end="url(#to-%s)"/></g>`,
		class, esc(edgeTip(e)), path, path, num(width), kind)
}

// line leaves on the side that faces the other and arrives there; within a column it goes
// around on the right.
func (m mapPicture) line(from, to *place, lane float64) string {
	x1, y1 := from.x+peerWidth, from.y+peerHeight/2
	x2, y2 := to.x-2, to.y+peerHeight/2
	step := 1
	switch {
	case from == to:
		return fmt.Sprintf("M%s %sc-4 -20 30 -20 22 -1", num(x1-32), num(from.y))
	case to.column == from.column:
		x2 = to.x + peerWidth + 2
		out := columnGap * 0.45
		return fmt.Sprintf("M%s %sC%s %s %s %s %s %s", num(x1), num(y1), num(x1+out), num(y1), num(x2+out), num(y2), num(x2), num(y2))
	case to.column < from.column: // back
		x1, x2, step = from.x, to.x+peerWidth+2, -1
		y1, y2 = y1+7, y2+7
	}
	var b strings.Builder
	fmt.Fprintf(&b, "M%s %s", num(x1), num(y1))
	x, y := x1, y1
	bend := func(tx, ty float64) {
		half := (tx - x) / 2
		fmt.Fprintf(&b, "C%s %s %s %s %s %s", num(x+half), num(y), num(tx-half), num(ty), num(tx), num(ty))
		x, y = tx, ty
	}
	for column := from.column + step; column != to.column; column += step {
		left := m.columns[column][0].x
		near, far := left-12, left+peerWidth+12
		if step < 0 {
			near, far = far, near
		}
		share := (left + peerWidth/2 - x1) / (x2 - x1)
		bend(near, m.gap(column, y1+(y2-y1)*share)+lane)
		fmt.Fprintf(&b, "H%s", num(far))
		x = far
	}
	bend(x2, y2)
	return b.String()
}

func edgeTip(e flow.Edge) string {
	t := fmt.Sprintf("%s → %s\n%s\n%s forwarded", e.From, e.To, ports(e.Ports), rate(e.Forwarded))
	if e.Dropped > 0 {
		t += fmt.Sprintf("\n%s dropped: %s", rate(e.Dropped), strings.Join(e.Reasons, ", "))
	}
	return t
}

// ports in words: protocols once, a few of them.
func ports(all []string) string {
	const most = 4
	var parts []string
	last := ""
	for _, p := range all[:min(most, len(all))] {
		protocol, port, _ := strings.Cut(p, " ")
		if protocol == last && port != "" {
			parts = append(parts, port)
			continue
		}
		last = protocol
		parts = append(parts, strings.TrimSpace(p))
	}
	s := strings.Join(parts, ", ")
	if more := len(all) - most; more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}

// drawEdges is the list of all ways: what is dropped first, then what is busiest.
func drawEdges(edges []flow.Edge, data mapData) template.HTML {
	var d drawing
	edges = slices.DeleteFunc(slices.Clone(edges), func(e flow.Edge) bool { return !data.touches(e) })
	if len(edges) == 0 {
		d.f(`<p class="none">There is nothing to list.</p>`)
		return d.html()
	}
	slices.SortStableFunc(edges, func(a, b flow.Edge) int {
		return cmp.Or(cmp.Compare(b.Dropped, a.Dropped), cmp.Compare(b.Forwarded, a.Forwarded))
	})
	d.f(`<div class="scroll" tabindex="0" role="region" aria-label="Ways through the network"><table class="ways"><thead><tr><th>From</th><th>To</th><th>Ports</th><th class="n">Forwarded</th><th class="n">Dropped</th><th>Why</th></tr></thead><tbody>`)
	for _, e := range edges {
		h := Good
		switch {
		case e.Dropped > 0:
			h = Failing
		case e.Forwarded == 0:
			h = Done
		}
		dropped := ""
		if e.Dropped > 0 {
			dropped = rate(e.Dropped)
		}
		d.f(`<tr class="%s"><td>%s <span>%s</span></td><td><span>%s</span></td><td>%s</td><td class="n">%s</td><td class="n">%s</td><td>%s</td></tr>`,
			h, icon(h), esc(e.From.String()), esc(e.To.String()), esc(ports(e.Ports)), rate(e.Forwarded), dropped, esc(strings.Join(e.Reasons, ", ")))
	}
	d.f(`</tbody></table></div>`)
	return d.html()
}
