package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
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

	mu      sync.Mutex
	now     *results
	began   time.Time
	earlier float64 // minutes of the run that this one continues
	err     error   // the first of writing the file
}

// newRecord begins with those of names that no run knows yet: they have not been run.
func newRecord(file string, before, now *results, names []string, rest bool) (*record, error) {
	r := &record{file: file, before: before, now: now, began: time.Now()}
	known := map[string]bool{}
	if before != nil && before.Kubernetes == now.Kubernetes {
		for _, c := range before.Cases {
			known[c.Name] = true
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

// ended takes what a post says, which may arrive after the report that says more.
func (r *record) ended(c result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := r.index(c.Name); i >= 0 && r.now.Cases[i].State != stateNotRun {
		return
	}
	r.put(c)
	_ = r.write() // the next add returns the error
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

// progress is what the suite posts when a case has ended. It does not say how one failed;
// the report does, once all have ended.
type progress struct {
	Msg string `json:"msg"`
}

func (p progress) result() (result, bool) {
	for word, state := range map[string]string{"PASSED ": statePassed, "FAILED ": stateFailed} {
		if name, ok := strings.CutPrefix(p.Msg, word); ok && name != "" {
			return result{Name: strings.TrimSpace(name), State: state}, true
		}
	}
	return result{}, false
}

// listen takes the suite's posts until stop is called, and returns where to send them.
func (r *record) listen() (url string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var p progress
		if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, 1<<20)).Decode(&p); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if c, ok := p.result(); ok {
			r.ended(c)
		}
	})}
	go func() { _ = server.Serve(l) }()
	return "http://" + l.Addr().String(), func() { _ = server.Shutdown(context.Background()) }, nil
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
