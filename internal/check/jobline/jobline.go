package jobline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/orrery-dev/orrery/internal/check"
)

// Bounds of what a component's own check may print. They are below those at which nodes begin
// a new file of a container's log.
const (
	MaxLine    = 4 << 10
	MaxLines   = 2000
	MaxPrinted = 1 << 20
	MaxDetail  = 1000
	tailLines  = 5
)

// Line is a line that a check prints. See docs/reference/component.md.
type Line struct {
	Name    string      `json:"name"`
	State   check.State `json:"state"`
	Detail  string      `json:"detail"`
	Seconds float64     `json:"seconds"`
}

// Lines is what was read of what a container prints.
type Lines struct {
	Open   []string     // checks that are not printed yet
	Last   check.Result // of the last of them: it counts when the container has ended well
	Failed bool         // one of them
	Seen   int          // lines that were taken
	log    []string     // the last of those that are no results
}

// Take reads the next line. Those that begin with "{" are results, and must be right; others
// are for a person, when something fails. It returns the result that is known by now, if any.
func (l *Lines) Take(line string) (name string, result check.Result, err error) {
	l.Seen++
	if !strings.HasPrefix(line, "{") {
		if text := Clean(line, MaxDetail/tailLines); text != "" {
			l.log = append(l.log, text)
			l.log = l.log[max(0, len(l.log)-tailLines):]
		}
		return "", check.Result{}, nil
	}
	printed, err := parseLine(line)
	if err == nil && !slices.Contains(l.Open, printed.Name) {
		err = fmt.Errorf("%q is printed twice, or not among the checks of component.yaml", Clean(printed.Name, 80))
	}
	if err != nil {
		return "", check.Result{}, fmt.Errorf("line %d is no result: %w: %s", l.Seen, err, Clean(line, 200))
	}
	l.Open = slices.DeleteFunc(l.Open, func(name string) bool { return name == printed.Name })
	result = printed.result(l.Tail())
	l.Failed = l.Failed || result.State == check.Failed
	if len(l.Open) == 0 && result.State != check.Failed {
		l.Last = result
		return "", check.Result{}, nil
	}
	return printed.Name, result, nil
}

// Tail is what a failure adds: the last lines that are no results.
func (l *Lines) Tail() string {
	if len(l.log) == 0 {
		return ""
	}
	return "; it also printed: " + strings.Join(l.log, " | ")
}

// parseLine reads one result strictly.
func parseLine(line string) (Line, error) {
	var l Line
	if len(line) >= MaxLine {
		return l, fmt.Errorf("it is longer than %d bytes", MaxLine)
	}
	decoder := json.NewDecoder(bytes.NewReader([]byte(line)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&l); err != nil {
		return l, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return l, errors.New("something follows the object")
	}
	switch {
	case l.Name == "":
		return l, errors.New("name is missing")
	case !slices.Contains([]check.State{check.Succeeded, check.Failed, check.Skipped}, l.State):
		return l, fmt.Errorf("state is %q; must be succeeded, failed or skipped", l.State)
	case l.Seconds < 0 || l.Seconds > time.Hour.Seconds():
		return l, fmt.Errorf("seconds is %g", l.Seconds)
	case l.Detail == "" && l.State != check.Succeeded:
		return l, fmt.Errorf("detail is missing; what is %s says why", l.State)
	}
	return l, nil
}

func (l Line) result(tail string) check.Result {
	detail := Clean(l.Detail, MaxDetail)
	r := check.OK("%s", detail)
	switch l.State {
	case check.Failed:
		r = check.Fail(errors.New(detail + tail))
	case check.Skipped:
		r = check.Skip("%s", detail)
	}
	r.Took = time.Duration(l.Seconds * float64(time.Second))
	return r
}

// Clean makes one short line of text that a container wrote: nothing in it moves the cursor
// of who reads it.
func Clean(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	s = strings.TrimSpace(s)
	if runes := []rune(s); len(runes) > most {
		s = string(runes[:most]) + "…"
	}
	return s
}
