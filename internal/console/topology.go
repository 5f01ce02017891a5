package console

import (
	"fmt"
	"html/template"
	"math"
	"net/url"
	"strings"
)

// The picture: every node is a planet, its pods are moons. The inner orbit is the cluster
// itself, the middle one what runs and watches it, the outer one what people came for. It
// is drawn once per node, so that the page can lay nodes out in columns or, on a phone,
// below each other.
const (
	sky    = 190.0 // width and height of a node's picture
	planet = 20.0
	moon   = 5.4
)

var orbits = []float64{41, 62, 83}

// orbitOf is the orbit of a pod, by its namespace.
func orbitOf(p Pod) int {
	switch {
	case strings.HasPrefix(p.Namespace, "kube-"), p.Namespace == "local-path-storage", p.Namespace == "default":
		return 0
	case strings.HasPrefix(p.Namespace, "observability"), p.Namespace == "platform":
		return 1
	}
	return 2
}

// drawNode draws one node. The moons link to the logs of their pods; they are no tab
// stops, because the list beside the picture has the same links.
func drawNode(n Node) template.HTML {
	var d drawing
	middle := sky / 2
	d.f(`<svg class="planet" viewBox="0 0 %s %s" role="img" aria-label="%s">`, num(sky), num(sky), esc(describe(n)))
	moons := make([][]Pod, len(orbits))
	for _, p := range n.Pods {
		if n.Health == Off || n.Health == Failing { // nobody can say
			p.Health, p.Reason = Off, "its node is "+n.State
		}
		o := orbitOf(p)
		moons[o] = append(moons[o], p)
	}
	for i, radius := range orbits {
		class := "orbit"
		if len(moons[i]) == 0 {
			class = "orbit idle"
		}
		d.f(`<circle class="%s" cx="%s" cy="%s" r="%s"/>`, class, num(middle), num(middle), num(radius))
		step := 2 * math.Pi / float64(max(1, len(moons[i])))
		for j, p := range moons[i] {
			angle := step*float64(j) - math.Pi/2 + float64(i)*2.1
			x, y := middle+radius*math.Cos(angle), middle+radius*math.Sin(angle)
			size := moon
			if room := radius * step / 2.6; room < size {
				size = max(2.2, room)
			}
			d.f(`<a href="%s" tabindex="-1" data-tip="%s">%s<circle class="hit" cx="%s" cy="%s" r="8.5"/></a>`,
				esc(podLogs(p)), esc(tip(p)), shape(p.Health, x, y, size), num(x), num(y))
		}
	}
	class := "body " + string(n.Health)
	if n.Role == "agent" {
		class += " agent"
	}
	d.f(`<circle class="%s" cx="%s" cy="%s" r="%s"/>`, class, num(middle), num(middle), num(planet))
	if n.Role == "server" { // a control plane has a ring, like Saturn
		d.f(`<ellipse class="saturn %s" cx="%s" cy="%s" rx="%s" ry="7" transform="rotate(-18 %s %s)"/>`,
			n.Health, num(middle), num(middle), num(planet+8), num(middle), num(middle))
		d.f(`<path class="%s half" d="M%s %sA%s %s 0 0 1 %s %sz" transform="rotate(-18 %s %s)"/>`,
			class, num(middle-planet), num(middle), num(planet), num(planet), num(middle+planet), num(middle), num(middle), num(middle))
	}
	d.f(`</svg>`)
	return d.html()
}

func describe(n Node) string {
	by := map[Health]int{}
	for _, p := range n.Pods {
		by[p.Health]++
	}
	var parts []string
	for _, h := range []Health{Good, Starting, Failing, Done} {
		if by[h] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", by[h], h))
		}
	}
	pods := "no pods"
	if len(parts) > 0 {
		pods = "pods: " + strings.Join(parts, ", ")
	}
	return fmt.Sprintf("%s, %s in zone %s, %s; %s", n.Name, n.Role, n.Zone, n.State, pods)
}

func tip(p Pod) string {
	t := p.Namespace + "/" + p.Name + "\n" + string(p.Health)
	if p.Reason != "" {
		t += ": " + p.Reason
	}
	if p.Restarts > 0 {
		t += "\n" + count(p.Restarts, "restart", "restarts")
	}
	return t
}

// podLogs is the address of a pod's logs.
func podLogs(p Pod) string {
	return logsOf(fmt.Sprintf(`{k8s_namespace_name=%q, k8s_pod_name=%q}`, p.Namespace, p.Name))
}

func logsOf(logql string) string { return "/logs?" + url.Values{"q": {logql}}.Encode() }
