package ui

import (
	"fmt"
	"strings"
	"time"
)

// leastDetail is the room in columns below which a detail is not worth beginning.
const leastDetail = 12

// cells is a line made of styled parts.
type cells []part

type part struct {
	text  string
	style style
}

func (c cells) width() int {
	n := 0
	for _, p := range c {
		n += width(p.text)
	}
	return n
}

// fit cuts c down to at most n columns, marking the cut.
func (c cells) fit(n int, mark string) cells {
	if c.width() <= n {
		return c
	}
	if n <= 0 {
		return nil
	}
	var out cells
	room := n - 1 // for the mark
	for _, p := range c {
		r := []rune(p.text)
		if len(r) > room {
			return append(out, part{string(r[:room]) + mark, p.style})
		}
		room -= len(r)
		out = append(out, p)
	}
	return out
}

// live is what is drawn below: the overall progress and a line for each running step. It
// leaves the last column free, where terminals disagree about wrapping, and some rows
// for what scrolls.
func (t *tty) live(columns, rows int, now time.Time) []cells {
	if len(t.tasks) == 0 && !t.unfinished() {
		return nil
	}
	var out []cells
	if t.unfinished() {
		out = append(out, t.header(columns, now))
	}
	room := max(1, rows-3-len(out))
	tasks := t.tasks
	more := 0
	if len(tasks) > room {
		// The last line of the room tells how many are not shown.
		more = len(tasks) - (room - 1)
		tasks = tasks[:room-1]
	}
	spin := t.glyphs.spinner[t.frame%len(t.glyphs.spinner)]
	for _, k := range tasks {
		line := cells{
			{spin + " ", cyan},
			{fmt.Sprintf("%-*s  %10s", t.names, k.id, whole(now.Sub(k.started))), normal},
		}
		if columns-line.width() > leastDetail {
			line = append(line, part{"  " + k.detail(), dim})
		}
		out = append(out, line)
	}
	if more > 0 {
		out = append(out, cells{{fmt.Sprintf("  and %d more", more), dim}})
	}
	for i := range out {
		out[i] = out[i].fit(columns-1, t.glyphs.cutOff)
	}
	return out
}

// whole is [Duration] without the tenths: in a view that lives they are noise.
func whole(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	}
	return Duration(d.Truncate(time.Second))
}

// unfinished: there is an overall progress to show.
func (t *tty) unfinished() bool { return t.overall.Total > 0 && t.overall.Done < t.overall.Total }

// header is the bar, done/total, the time so far and the time left; a narrow terminal
// loses the bar first.
func (t *tty) header(columns int, now time.Time) cells {
	elapsed := now.Sub(t.began).Seconds()
	left := 0.0
	fraction := t.overall.Done / t.overall.Total
	if t.overall.ETA > 0 {
		left = max(t.overall.ETA-now.Sub(t.overall.Time).Seconds(), 1)
		// Steps differ by a factor of a thousand: time is the fairer measure.
		fraction = elapsed / (elapsed + left)
	}
	t.shown = min(max(t.shown, fraction), 1)
	texts := []string{
		fmt.Sprintf("%.0f/%.0f steps", t.overall.Done, t.overall.Total),
		whole(now.Sub(t.began)),
	}
	if l := Left(left); l != "" {
		texts = append(texts, l)
	}
	if t.overall.Message != "" {
		texts = append(texts, clean(t.overall.Message))
	}
	text := strings.Join(texts, "  ")
	for len(texts) > 1 && width(text) >= columns {
		texts = texts[:len(texts)-1]
		text = strings.Join(texts, "  ")
	}
	bar := min(30, columns-width(text)-4)
	if bar < 8 {
		return cells{{text, bold}}
	}
	full := int(t.shown * float64(bar))
	return cells{
		{strings.Repeat(t.glyphs.full, full), green},
		{strings.Repeat(t.glyphs.empty, bar-full), dim},
		{"  " + text, bold},
	}
}
