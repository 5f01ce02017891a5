package ui

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// A step that goes on tells how far it is after firstProgress, then ever more rarely
// until once in lastProgress: a log is read afterwards.
const (
	firstProgress = 10 * time.Second
	lastProgress  = time.Minute
)

// plain writes one line for each change of state, for logs.
type plain struct {
	mu      sync.Mutex
	w       io.Writer
	err     error
	closed  bool
	begin   time.Time
	tasks   map[string]*plainTask
	overall Event
	toldAll time.Time // when overall was last told
	names   int       // width of the step column so far
	cached  int
	// flushed: the count of what had nothing to be done was told.
	flushed bool
}

type plainTask struct {
	task
	next  time.Time
	every time.Duration
	said  string
}

func newPlain(w io.Writer) *plain {
	return &plain{w: w, tasks: map[string]*plainTask{}, names: 18}
}

// Emit writes what e changes.
func (p *plain) Emit(e Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if p.begin.IsZero() {
		p.begin = e.Time
	}
	if quiet(e) {
		delete(p.tasks, e.Step)
		if e.State == StateCached {
			p.cached++
		}
		return
	}
	if e.Type != TypeProgress {
		p.tellCached(e.Time)
	}
	switch e.Type {
	case TypeStep:
		p.step(e)
	case TypeProgress:
		p.progress(e)
	case TypeNotice:
		p.line(e.Time, "note", e.Step, e.Message)
	case TypeMilestone:
		p.line(e.Time, "note", "", e.Message)
	case TypeWarning:
		p.line(e.Time, "warn", e.Step, e.Message)
		p.rest(e.Error)
	case TypeSummary:
		if e.Message != "" {
			p.write("\n" + strings.Join(lines(e.Message), "\n") + "\n")
		}
		if e.Error != "" {
			p.line(e.Time, "fail", "", e.Error)
		}
	}
}

func (p *plain) step(e Event) {
	switch e.State {
	case StateRunning:
		t := &plainTask{task: task{id: e.Step, title: clean(e.Message), started: e.Time}, every: firstProgress, next: e.Time.Add(firstProgress)}
		p.tasks[e.Step] = t
		p.line(e.Time, "start", e.Step, t.title)
		return
	case StateDone:
		p.line(e.Time, "done", e.Step, "in "+Seconds(e.Seconds))
	case StateCached:
		p.line(e.Time, "same", e.Step, "nothing to change, "+Seconds(e.Seconds))
	case StateSkipped:
		p.line(e.Time, "skip", e.Step, e.Message)
	case StateCancelled:
		p.line(e.Time, "stop", e.Step, "cancelled after "+Seconds(e.Seconds))
	case StateFailed:
		p.line(e.Time, "FAIL", e.Step, "after "+Seconds(e.Seconds))
		p.rest(e.Error)
	}
	delete(p.tasks, e.Step)
}

func (p *plain) progress(e Event) {
	if e.Step == "" {
		p.overall = e
		return
	}
	t := p.tasks[e.Step]
	if t == nil {
		return
	}
	t.update(e)
	if e.Time.Before(t.next) {
		return
	}
	said := t.detail()
	if said == t.said {
		return
	}
	t.said = said
	t.every = min(t.every*3/2, lastProgress)
	t.next = e.Time.Add(t.every)
	if left := Left(t.eta); left != "" {
		said += "  " + left
	}
	if p.overall.Total > 0 && !e.Time.Before(p.toldAll.Add(firstProgress/2)) {
		p.toldAll = e.Time
		said += fmt.Sprintf("  (all: %.0f/%.0f steps", p.overall.Done, p.overall.Total)
		if left := Left(p.overall.ETA - e.Time.Sub(p.overall.Time).Seconds()); left != "" {
			said += ", " + left
		}
		if p.overall.Message != "" {
			said += ", " + clean(p.overall.Message)
		}
		said += ")"
	}
	p.line(e.Time, "", e.Step, said)
}

// tellCached says once, in front of the first thing that happens, what needed nothing.
func (p *plain) tellCached(at time.Time) {
	if p.cached > 0 && !p.flushed {
		p.flushed = true
		p.line(at, "same", "", upToDate(p.cached))
	}
}

func upToDate(n int) string {
	if n == 1 {
		return "1 step is up to date"
	}
	return fmt.Sprintf("%d steps are up to date", n)
}

func (p *plain) line(at time.Time, word, step, text string) {
	first, more, _ := strings.Cut(text, "\n")
	b := fmt.Sprintf("[%5.0f s] %-5s ", at.Sub(p.begin).Seconds(), word)
	if step != "" {
		p.names = max(p.names, min(width(step), 32))
		b += fmt.Sprintf("%-*s  ", p.names, step)
	}
	p.write(strings.TrimRight(b+clean(first), " ") + "\n")
	p.rest(more)
}

// rest writes the further lines of a message, indented.
func (p *plain) rest(text string) {
	if text == "" {
		return
	}
	for _, l := range lines(text) {
		p.write(strings.TrimRight("                "+l, " ") + "\n")
	}
}

func (p *plain) write(s string) {
	if _, err := io.WriteString(p.w, s); err != nil && p.err == nil {
		p.err = err
	}
}

// Close returns the first error of writing.
func (p *plain) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.tellCached(time.Now())
		p.closed = true
	}
	return p.err
}
