package console

import (
	"cmp"
	"context"
	"html/template"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/orrery-dev/orrery/internal/dashboard"
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

func (c *Console) verify(context.Context, *http.Request) (*view, error) {
	v := &view{Template: "verify.html", Title: "Verify"}
	now := c.verifier.view()
	if now.Began.IsZero() && c.Earlier != nil {
		now.Earlier = c.Earlier()
	}
	v.add("checks", drawVerification(now))
	return v, nil
}

func drawVerification(v verification) template.HTML {
	var d drawing
	disabled := ""
	if v.Running || !v.Possible {
		disabled = " disabled"
	}
	d.f(`<form method="post" action="/verify"><button class="primary"%s>`, disabled)
	switch {
	case v.Running:
		d.f(`Checking …`)
	case v.Began.IsZero():
		d.f(`Verify now`)
	default:
		d.f(`Verify again`)
	}
	d.f(`</button></form>`)
	if v.Began.IsZero() {
		if !v.Possible {
			d.f(`<p class="none">Checks cannot be run from here: start the console inside the repository, and where the checks' images are built.</p>`)
		} else {
			d.f(`<p class="none">Not verified since this console began. The checks write and read real data and take away what they made; it takes about half a minute.</p>`)
		}
		if len(v.Earlier) == 0 {
			return d.html()
		}
		v.Checks = v.Earlier
	}
	count := map[string]int{}
	for _, c := range v.Checks {
		count[c.State]++
	}
	d.f(`<p class="sub" role="status">%d passed, %d failed, %d skipped`, count["succeeded"], count["failed"], count["skipped"])
	switch {
	case v.Running:
		d.f(`, %d under way`, count["running"])
	case v.Began.IsZero():
		first, last := v.Checks[0].At, v.Checks[0].At
		for _, c := range v.Checks {
			if c.At.Before(first) {
				first = c.At
			}
			if c.At.After(last) {
				last = c.At
			}
		}
		d.f(` · the last results of orrery up, verify or a console, of %s`, first.Local().Format("2 Jan 15:04:05"))
		if last.Sub(first) > time.Minute {
			d.f(` to %s`, last.Local().Format("2 Jan 15:04:05"))
		}
	default:
		d.f(` · took %s · at %s`, esc(dashboard.Duration(v.Ended.Sub(v.Began).Round(100*time.Millisecond))), v.Began.Local().Format("15:04:05"))
	}
	d.f(`</p>`)
	if v.Failed != nil {
		d.f(`<p class="none">%s</p>`, esc(v.Failed.Error()))
	}
	checks := slices.Clone(v.Checks)
	rank := map[string]int{"failed": 0, "running": 1, "succeeded": 2, "skipped": 3}
	slices.SortStableFunc(checks, func(a, b Check) int {
		return cmp.Or(cmp.Compare(rank[a.State], rank[b.State]), cmp.Compare(a.Component, b.Component), cmp.Compare(a.Name, b.Name))
	})
	d.f(`<ul class="checks">`)
	for _, k := range checks {
		h := map[string]Health{"succeeded": Good, "failed": Failing, "running": Starting}[k.State]
		d.f(`<li class="%s">%s<span class="sr">%s</span><b>%s</b><span>%s</span><em>%s</em>`,
			esc(k.State), icon(h), esc(k.State), esc(k.Name), esc(k.Component), esc(cut(k.Detail, 600)))
		if k.State != "running" {
			d.f(`<i>%s</i>`, esc(dashboard.Seconds.Format(k.Seconds)))
		}
		d.f(`</li>`)
	}
	d.f(`</ul>`)
	return d.html()
}
