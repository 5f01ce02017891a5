package ui

import (
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// Renderer is a [Sink] that writes. Close writes what is still to be written and gives
// the terminal back; it may be called twice, and events after it are dropped.
type Renderer interface {
	Sink
	Close() error
}

// Choose picks the renderer for w: JSON lines when json is set, otherwise a live view
// when w is a terminal that can move its cursor and plain is not set, otherwise plain
// lines. NO_COLOR, TERM and the locale (LC_ALL, LC_CTYPE, LANG) are obeyed.
func Choose(w io.Writer, plain, json bool) Renderer {
	if json {
		return newJSON(w)
	}
	f, ok := w.(*os.File)
	if t := os.Getenv("TERM"); plain || !ok || t == "" || t == "dumb" || !term.IsTerminal(int(f.Fd())) {
		return newPlain(w)
	}
	t := newTTY(w, func() (int, int) {
		columns, rows, err := term.GetSize(int(f.Fd()))
		if err != nil || columns <= 0 || rows <= 0 {
			return 80, 24
		}
		return columns, rows
	}, os.Getenv("NO_COLOR") == "", utf8Locale(os.Getenv))
	t.start()
	return t
}

// utf8Locale is false when the locale names another encoding. Containers have often no
// locale at all, seen from a terminal that reads UTF-8.
func utf8Locale(env func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := env(name); v != "" {
			v = strings.ToUpper(v)
			return strings.Contains(v, "UTF-8") || strings.Contains(v, "UTF8")
		}
	}
	return true
}

// task is a running step as the plain and the live view know it.
type task struct {
	id          string
	title       string
	message     string // what it waits for or does now
	done, total float64
	unit        string
	eta         float64
	started     time.Time
}

// update takes over what e tells.
func (t *task) update(e Event) {
	if e.Message != "" {
		t.message = clean(e.Message)
	}
	if e.Total > 0 {
		t.done, t.total = e.Done, e.Total
	}
	if e.Unit != "" {
		t.unit = e.Unit
	}
	t.eta = e.ETA
}

// counted is "1204/2310 packages", or "" when there is nothing to count.
func (t *task) counted() string {
	switch {
	case t.total <= 0:
		return ""
	case t.unit == "bytes":
		return Size(int64(t.done)) + " of " + Size(int64(t.total))
	default:
		return strings.TrimSpace(fmt.Sprintf("%.0f/%.0f %s", t.done, t.total, t.unit))
	}
}

func (t *task) percent() string {
	if t.total <= 0 {
		return ""
	}
	return fmt.Sprintf("%.0f %%", math.Floor(100*min(max(t.done/t.total, 0), 1)))
}

// detail is what there is to say beside the name and the time.
func (t *task) detail() string {
	parts := make([]string, 0, 3)
	if c := t.counted(); c != "" {
		parts = append(parts, t.percent(), c)
	}
	if t.message != "" && t.message != t.title {
		parts = append(parts, t.message)
	} else if len(parts) == 0 {
		parts = append(parts, t.title)
	}
	return strings.Join(parts, "  ")
}

// Left says how long something will still take, such as "about 4 min left"; "" when s is 0
// (unknown).
func Left(s float64) string {
	if s <= 0 || math.IsNaN(s) || math.IsInf(s, 0) {
		return ""
	}
	return About(s) + " left"
}

// About is a time in seconds no more exactly than anybody knows what is to come: "a few
// seconds", "about 45 s", "about 4 min".
func About(s float64) string {
	switch {
	case s < 8:
		return "a few seconds"
	case s < 90:
		return fmt.Sprintf("about %.0f s", math.Ceil(s/5)*5)
	case s < 90*60:
		return fmt.Sprintf("about %.0f min", math.Round(s/60))
	default:
		return fmt.Sprintf("about %.1f h", s/3600)
	}
}

// lines splits text into clean lines and drops empty ones at both ends.
func lines(text string) []string {
	split := strings.Split(strings.Trim(text, "\r\n"), "\n")
	for i, l := range split {
		indent := len(l) - len(strings.TrimLeft(l, " \t"))
		split[i] = strings.Repeat(" ", min(indent, 8)) + clean(l)
	}
	return split
}

// quiet: nothing had to be done, and nobody spent time on finding out.
func quiet(e Event) bool {
	return e.Type == TypeStep && e.Seconds == 0 && (e.State == StateCached || e.State == StateCancelled)
}
