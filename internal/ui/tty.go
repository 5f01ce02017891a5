package ui

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// frameEvery is the pace of the live view.
const frameEvery = 125 * time.Millisecond

// Control sequences (ECMA-48; 2026 is synchronized output, which others ignore).
const (
	cursorHide  = "\x1b[?25l"
	cursorShow  = "\x1b[?25h"
	wrapOff     = "\x1b[?7l"
	wrapOn      = "\x1b[?7h"
	frameBegin  = "\x1b[?2026h"
	frameEnd    = "\x1b[?2026l"
	eraseLine   = "\x1b[K" // to its end
	eraseScreen = "\x1b[J" // from the cursor on
)

// style is a colour (SGR parameters).
type style string

const (
	normal style = ""
	dim    style = "2"
	bold   style = "1"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

// glyphs of one encoding.
type glyphs struct {
	spinner             []string
	done, same, skip    string
	fail, warn, note    string
	full, empty, cutOff string
}

var (
	unicodeGlyphs = glyphs{
		spinner: []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"},
		done:    "✓", same: "=", skip: "-", fail: "✗", warn: "!", note: "·",
		full: "━", empty: "─", cutOff: "…",
	}
	asciiGlyphs = glyphs{
		spinner: []string{"|", "/", "-", "\\"},
		done:    "+", same: "=", skip: "-", fail: "x", warn: "!", note: "*",
		full: "#", empty: ".", cutOff: "~",
	}
)

// tty is the live view: what has ended scrolls away above, what runs is redrawn below.
// Emit only changes the model; one goroutine writes, so that a slow terminal holds up nobody.
type tty struct {
	mu      sync.Mutex
	w       io.Writer
	size    func() (columns, rows int)
	color   bool
	glyphs  glyphs
	began   time.Time
	tasks   []*task // in order of their start
	names   int     // width of the step column
	above   []string
	cached  int
	overall Event
	shown   float64 // fraction of the bar, which never goes back
	closed  bool

	// Owned by whoever paints.
	frame int
	drawn []int // widths of the lines of the last frame
	err   error

	stop, stopped chan struct{}
	closing       sync.Once
}

func newTTY(w io.Writer, size func() (int, int), color, unicode bool) *tty {
	t := &tty{w: w, size: size, color: color, glyphs: asciiGlyphs, names: 18}
	if unicode {
		t.glyphs = unicodeGlyphs
	}
	return t
}

// live holds the views that have the terminal, for [Restore].
var live struct {
	sync.Mutex
	views map[*tty]bool
}

// restoreTimeout bounds what a terminal that takes no more output may cost.
const restoreTimeout = 300 * time.Millisecond

// Restore closes every live view. It is for the moment before the process ends without
// unwinding, such as on a second Ctrl-C: a terminal must not be left without its cursor.
func Restore() {
	live.Lock()
	views := slices.Collect(maps.Keys(live.views))
	live.Unlock()
	done := make(chan struct{}, len(views))
	for _, v := range views {
		go func() {
			_ = v.Close()
			done <- struct{}{}
		}()
	}
	timeout := time.After(restoreTimeout)
	for range views {
		select {
		case <-done:
		case <-timeout:
			return
		}
	}
}

func (t *tty) register(on bool) {
	live.Lock()
	defer live.Unlock()
	if live.views == nil {
		live.views = map[*tty]bool{}
	}
	if on {
		live.views[t] = true
	} else {
		delete(live.views, t)
	}
}

// start begins painting.
func (t *tty) start() {
	t.register(true)
	t.stop, t.stopped = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(t.stopped)
		tick := time.NewTicker(frameEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				t.paint(false)
			case <-t.stop:
				return
			}
		}
	}()
}

// Emit takes e into the model.
func (t *tty) Emit(e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if t.began.IsZero() {
		t.began = e.Time
	}
	switch e.Type {
	case TypeStep:
		t.step(e)
	case TypeProgress:
		if e.Step == "" {
			t.overall = e
		} else if i := t.find(e.Step); i >= 0 {
			t.tasks[i].update(e)
		}
	case TypeNotice:
		t.print(t.glyphs.note, dim, e.Step, "", e.Message)
	case TypeMilestone:
		mark, style := t.glyphs.note, dim
		if e.State == StateDone {
			mark, style = t.glyphs.done, green
		}
		t.print(mark, style, "", "", e.Message)
	case TypeWarning:
		t.print(t.glyphs.warn, yellow, e.Step, "", e.Message)
		t.rest(e.Error)
	case TypeSummary:
		if e.Message != "" {
			t.above = append(t.above, "")
			t.above = append(t.above, lines(e.Message)...)
		}
		t.rest(e.Error)
	}
}

func (t *tty) find(id string) int {
	return slices.IndexFunc(t.tasks, func(k *task) bool { return k.id == id })
}

func (t *tty) step(e Event) {
	if e.State == StateRunning {
		t.tellCached()
		if t.find(e.Step) < 0 {
			t.tasks = append(t.tasks, &task{id: e.Step, title: clean(e.Message), started: e.Time})
			t.names = max(t.names, min(width(e.Step), 32))
		}
		return
	}
	if i := t.find(e.Step); i >= 0 {
		t.tasks = slices.Delete(t.tasks, i, i+1)
	}
	if quiet(e) {
		if e.State == StateCached {
			t.cached++
		}
		return
	}
	t.tellCached()
	took := Seconds(e.Seconds)
	switch e.State {
	case StateDone:
		t.print(t.glyphs.done, green, e.Step, took, "")
	case StateCached:
		t.print(t.glyphs.same, dim, e.Step, took, "nothing to change")
	case StateSkipped:
		t.print(t.glyphs.skip, yellow, e.Step, "skipped", e.Message)
	case StateCancelled:
		t.print(t.glyphs.skip, yellow, e.Step, took, "cancelled")
	case StateFailed:
		t.print(t.glyphs.fail, red, e.Step, took, "")
		t.rest(e.Error)
	}
}

// print queues a line that stays.
func (t *tty) print(mark string, s style, step, took, text string) {
	first, more, _ := strings.Cut(text, "\n")
	line := t.paintText(mark, s) + " "
	switch {
	case step != "" && took != "":
		line += fmt.Sprintf("%-*s  %10s  ", t.names, step, took)
	case step != "":
		line += step + ": "
	}
	t.above = append(t.above, strings.TrimRight(line+clean(first), " "))
	t.rest(more)
}

func (t *tty) rest(text string) {
	if text == "" {
		return
	}
	for _, l := range lines(text) {
		t.above = append(t.above, strings.TrimRight("    "+l, " "))
	}
}

func (t *tty) paintText(s string, c style) string {
	if !t.color || c == normal || s == "" {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

// Close paints what is left, takes the live part away and gives the cursor back.
func (t *tty) Close() error {
	t.closing.Do(func() {
		t.mu.Lock()
		t.closed = true
		t.tellCached()
		t.mu.Unlock()
		if t.stop != nil {
			close(t.stop)
			<-t.stopped
		}
		t.paint(true)
		t.register(false)
	})
	return t.err
}

// tellCached queues how many steps had nothing to do.
func (t *tty) tellCached() {
	if t.cached > 0 {
		t.above = append(t.above, t.paintText(t.glyphs.same+" "+upToDate(t.cached), dim))
		t.cached = 0
	}
}

// paint writes one frame in one write: what stays, then the live lines. The last frame
// has no live lines.
func (t *tty) paint(last bool) {
	columns, rows := t.size()
	t.mu.Lock()
	above := t.above
	t.above = nil
	var live []cells
	if !last {
		live = t.live(columns, rows, time.Now())
	}
	t.mu.Unlock()
	if len(above) == 0 && len(live) == 0 && len(t.drawn) == 0 {
		return // nothing there, nothing to take away
	}
	var b strings.Builder
	b.WriteString(frameBegin)
	if len(t.drawn) == 0 {
		b.WriteString(cursorHide)
	}
	// A terminal that was made narrower has broken our lines in two.
	up := 0
	for _, w := range t.drawn {
		up += max(1, (w+columns-1)/columns)
	}
	b.WriteString("\r")
	if up > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", up)
	}
	if len(above) > 0 {
		b.WriteString(eraseScreen)
	}
	for _, l := range above {
		b.WriteString(l + "\n")
	}
	b.WriteString(wrapOff)
	t.drawn = t.drawn[:0]
	for _, l := range live {
		for _, c := range l {
			b.WriteString(t.paintText(c.text, c.style))
		}
		b.WriteString(eraseLine + "\n")
		t.drawn = append(t.drawn, l.width())
	}
	b.WriteString(eraseScreen + wrapOn)
	if len(live) == 0 {
		b.WriteString(cursorShow)
	}
	b.WriteString(frameEnd)
	t.frame++
	if _, err := io.WriteString(t.w, b.String()); err != nil && t.err == nil {
		t.err = err
	}
}
