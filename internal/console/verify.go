package console

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// verifier runs the checks, one run at a time, and keeps the results.
type verifier struct {
	run  func(ctx context.Context, report func(Check)) error
	base context.Context

	mu      sync.Mutex
	checks  []Check
	began   time.Time
	ended   time.Time
	failed  error
	running bool
	changed chan struct{}
	wg      sync.WaitGroup
}

func newVerifier(ctx context.Context, run func(context.Context, func(Check)) error) *verifier {
	return &verifier{run: run, base: ctx, changed: make(chan struct{})}
}

// start begins a run unless one goes on.
func (v *verifier) start() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.running || v.run == nil || v.base.Err() != nil {
		return
	}
	v.running, v.began, v.ended, v.failed, v.checks = true, time.Now(), time.Time{}, nil, nil
	v.tell()
	v.wg.Go(func() {
		err := v.run(v.base, v.report)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.running, v.ended, v.failed = false, time.Now(), err
		v.tell()
	})
}

func (v *verifier) report(c Check) {
	v.mu.Lock()
	defer v.mu.Unlock()
	i := slices.IndexFunc(v.checks, func(o Check) bool { return o.Component == c.Component && o.Name == c.Name })
	if i < 0 {
		v.checks = append(v.checks, c)
	} else {
		v.checks[i] = c
	}
	v.tell()
}

// tell wakes who follows; the caller holds the lock.
func (v *verifier) tell() {
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *verifier) changes() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.changed
}

type verification struct {
	Possible, Running bool
	Checks            []Check
	Began, Ended      time.Time
	Failed            error
	Earlier           []Check // when nothing was begun here
}

func (v *verifier) view() verification {
	v.mu.Lock()
	defer v.mu.Unlock()
	return verification{Possible: v.run != nil, Running: v.running, Checks: slices.Clone(v.checks), Began: v.began, Ended: v.ended, Failed: v.failed}
}

func (v *verifier) wait() { v.wg.Wait() }

func (c *Console) startVerify(w http.ResponseWriter, r *http.Request) {
	c.verifier.start()
	http.Redirect(w, r, "/verify", http.StatusSeeOther)
}
