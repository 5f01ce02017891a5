package check

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAwait(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name   string
		probes []Result // the last one is repeated
		state  State
		after  time.Duration
		says   string
	}{
		{"at once", []Result{OK("there")}, Succeeded, 0, "there"},
		{"after a while", []Result{Wait("one"), Wait("two"), OK("three")}, Succeeded, 200 * time.Millisecond, "three"},
		{"skipped is not success", []Result{Skip("no image")}, Skipped, 0, "no image"},
		{"hopeless", []Result{Wait("one"), Fail(boom)}, Failed, 100 * time.Millisecond, "boom"},
		{"never", []Result{Wait("2 of 3")}, Failed, 10 * time.Second, "cluster/nodes: timed out after 10s: 2 of 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, n := time.Now(), 0
				r := Await(t.Context(), Condition{Component: "cluster", Name: "nodes", Timeout: 10 * time.Second, Probe: func(context.Context) Result {
					n++
					return c.probes[min(n, len(c.probes))-1]
				}}, nil)
				if r.State != c.state || !strings.Contains(r.Message, c.says) {
					t.Errorf("%s %q, want %s %q", r.State, r.Message, c.state, c.says)
				}
				if took := time.Since(start); took != c.after {
					t.Errorf("took %s, want %s", took, c.after)
				}
				if c.name == "never" && !errors.Is(r.Err, ErrTimeout) {
					t.Errorf("%v does not wrap ErrTimeout", r.Err)
				}
			})
		})
	}
}

// What comes nearer is waited for longer than what does not, though not for ever.
func TestProgressExtendsTheDeadline(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps int // of progress, one every 8 s
		ready bool
		after time.Duration
	}{
		{"no progress", 0, false, 10 * time.Second},
		{"some, then none", 2, false, 26 * time.Second},
		{"slow, and then ready", 3, true, 32 * time.Second},
		{"for ever", 1000, false, 50 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				r := Await(t.Context(), Condition{Component: "c", Name: "n", Timeout: 10 * time.Second, Interval: time.Second, Probe: func(context.Context) Result {
					at := int(time.Since(start) / (8 * time.Second))
					if c.ready && at > c.steps {
						return OK("ready")
					}
					r := Wait("not ready")
					r.Progress = strings.Repeat("x", min(at, c.steps))
					return r
				}}, nil)
				if took := time.Since(start); took != c.after || (r.State == Succeeded) != c.ready {
					t.Errorf("%s after %s, want %s: %v", r.State, took, c.after, r.Err)
				}
			})
		})
	}
}

// The deadline cuts off a request that is under way: what was seen before says more.
func TestAwaitKeepsTheLastThingSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		r := Await(t.Context(), Condition{Component: "nats", Name: "ready", Timeout: time.Second, Probe: func(ctx context.Context) Result {
			if n++; n == 1 {
				return Wait("0 of 3 pods are ready")
			}
			<-ctx.Done()
			return Wait("the server does not answer: %v", ctx.Err())
		}}, nil)
		if r.State != Failed || !strings.Contains(r.Message, "0 of 3 pods are ready") {
			t.Errorf("%s %q", r.State, r.Message)
		}
	})
}

func TestAwaitCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped by hand")
	r := Await(ctx, Condition{Component: "c", Name: "n", Probe: func(context.Context) Result {
		cancel(stopped)
		return Wait("working")
	}}, nil)
	if r.State != Failed || !errors.Is(r.Err, stopped) || !strings.Contains(r.Message, "working") {
		t.Errorf("%s %q", r.State, r.Message)
	}
}
