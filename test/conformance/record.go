package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// record writes down what comes of each case as soon as that is known, so that a run which
// ends early keeps what it has, and -rest can go on with it.
type record struct {
	file   string // "" for none
	before *results
	names  []string // of what is run

	mu      sync.Mutex
	now     *results
	began   time.Time
	earlier float64 // minutes of the run that this one continues
	err     error   // the first of writing the file
}

// newRecord begins with those of names that no run knows yet: they have not been run.
func newRecord(file string, before, now *results, names []string, rest bool) (*record, error) {
	r := &record{file: file, before: before, now: now, names: names, began: time.Now()}
	known := map[string]bool{}
	if before != nil && before.Kubernetes == now.Kubernetes {
		for _, c := range before.Cases {
			known[c.Name] = c.State != stateNotRun
		}
		for _, run := range before.Runs {
			if rest && !run.Again && run.Set == now.Runs[0].Set && run.Focus == now.Runs[0].Focus {
				r.earlier = run.Minutes
			}
		}
	}
	for _, name := range names {
		if !known[name] {
			now.Cases = append(now.Cases, result{Name: name, State: stateNotRun})
		}
	}
	_, err := r.add()
	return r, err
}

// add replaces what was known of these cases, writes the file, and sums up.
func (r *record) add(cases ...result) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range cases {
		r.put(c)
	}
	return r.now.summary(), r.write()
}

// ended notes a case of those that were chosen.
func (r *record) ended(name, state string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.names, name) {
		r.put(result{Name: name, State: state})
		_ = r.write() // the next add returns the error
	}
}

func (r *record) index(name string) int {
	return slices.IndexFunc(r.now.Cases, func(c result) bool { return c.Name == name })
}

func (r *record) put(c result) {
	if i := r.index(c.Name); i >= 0 {
		r.now.Cases[i] = c
	} else {
		r.now.Cases = append(r.now.Cases, c)
	}
}

func (r *record) write() error {
	r.now.Runs[0].Minutes = float64(int((r.earlier+time.Since(r.began).Minutes())*10)) / 10
	if r.file != "" && r.err == nil {
		r.err = merge(r.before, r.now).write(r.file)
	}
	return r.err
}

// endings is what ginkgo says with -v, line by line, written to log, and each case that has
// ended given to the record. How one failed is known from the report, once all have ended.
type endings struct {
	log    io.Writer
	record *record
	line   []byte
	begins bool   // a rule of dashes was the last line
	name   string // the line after it, but for the end of a case
	state  string // of the case that the next line names
}

func (e *endings) Write(b []byte) (int, error) {
	for rest := b; ; {
		before, after, whole := bytes.Cut(rest, []byte{'\n'})
		e.line = append(e.line, before...)
		if !whole {
			break
		}
		e.take(string(e.line))
		e.line, rest = e.line[:0], after
	}
	return e.log.Write(b)
}

// take reads "• [0.045 seconds]" or "• [FAILED] [1.5 seconds]", and "NAME [LABELS]": after a rule,
// side by side the end comes first and then the name, one by one the other way round.
func (e *endings) take(line string) {
	begins := e.begins
	e.begins = strings.HasPrefix(line, "----------")
	what, ended := strings.CutPrefix(line, "• [")
	switch {
	case e.begins:
	case ended && strings.HasSuffix(what, " seconds]"):
		state := ""
		if first, _, _ := strings.Cut(what, "]"); strings.HasSuffix(first, " seconds") {
			state = statePassed
		} else if first == "FAILED" || first == "TIMEDOUT" || first == "PANICKED" {
			state = stateFailed
		}
		if begins {
			e.state = state
		} else {
			e.end(e.name, state)
		}
	case e.state != "":
		e.end(line, e.state)
		e.state = ""
	case begins:
		e.name = line
	}
}

func (e *endings) end(line, state string) {
	if i := strings.LastIndex(line, " ["); i > 0 && state != "" {
		e.record.ended(line[:i], state)
	}
}

// list are the names of the cases that were chosen.
func (r *runner) list(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, r.programs.tests, "--list-tests").Output()
	if err != nil {
		return nil, fmt.Errorf("list the cases: %w", err)
	}
	return r.choose(string(out)), nil
}

// choose reads lines of "FILE:LINE: NAME".
func (o options) choose(listing string) (names []string) {
	in := regexp.MustCompile(o.pattern())
	for line := range strings.Lines(listing) {
		_, name, ok := strings.Cut(line, ": ")
		if name = strings.TrimSpace(name); !ok || name == "" || !in.MatchString(name) {
			continue
		}
		if o.skip == "" || !regexp.MustCompile(o.skip).MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}
