package console

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"strconv"
	"strings"
)

// drawing builds SVG and HTML text; what comes from outside goes through esc.
type drawing struct{ strings.Builder }

func (d *drawing) f(format string, a ...any) { fmt.Fprintf(&d.Builder, format, a...) }

func (d *drawing) html() template.HTML { return template.HTML(d.String()) } //nolint:gosec // everything from outside is escaped

func esc(s string) string { return html.EscapeString(s) }

func itoa(n int) string { return strconv.Itoa(n) }

// num writes a coordinate with one digit behind the point at most. What is no number, such
// as the share of an infinity, is nothing.
func num(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		v = 0
	}
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}

// shape marks a state by form as well as by colour, around the point x, y.
func shape(h Health, x, y, r float64) string {
	switch h {
	case Good:
		return fmt.Sprintf(`<circle class="m ready" cx="%s" cy="%s" r="%s"/>`, num(x), num(y), num(r))
	case Starting: // a half-filled circle
		return fmt.Sprintf(`<circle class="m starting ring" cx="%s" cy="%s" r="%s"/><path class="m starting" d="M%s %sa%s %s 0 0 1 0 %sz"/>`,
			num(x), num(y), num(r-.6), num(x), num(y-r), num(r), num(r), num(2*r))
	case Failing: // a diamond
		w := r * 1.35
		return fmt.Sprintf(`<path class="m failing" d="M%s %sl%s %sl-%s %sl-%s -%sz"/>`, num(x), num(y-w), num(w), num(w), num(w), num(w), num(w), num(w))
	}
	return fmt.Sprintf(`<circle class="m done ring" cx="%s" cy="%s" r="%s"/>`, num(x), num(y), num(r-.8))
}

// icon is the mark of a state beside text. The word stands beside it, or in the label.
func icon(h Health) template.HTML {
	var d drawing
	d.f(`<svg class="icon" viewBox="0 0 14 14" aria-hidden="true">%s</svg>`, shape(h, 7, 7, 4.6))
	return d.html()
}
