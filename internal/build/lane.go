package build

import (
	"context"
	"slices"
	"sync"
	"time"
)

// lane lets one build through at a time: of those that wait the one of the lowest stage, which a
// person waits for first, and of these the most expensive, which all else ends up waiting for.
type lane struct {
	mu      sync.Mutex
	busy    bool
	waiting []*ticket
}

type ticket struct {
	stage int
	cost  float64
	grant chan struct{}
}

// before reports whether t goes first.
func (t *ticket) before(other *ticket) bool {
	if t.stage != other.stage {
		return t.stage < other.stage
	}
	return t.cost > other.cost
}

// settle is how long an idle lane waits for the rest of a batch of builds that are asked
// for together, before it chooses one.
const settle = 30 * time.Millisecond

// enter waits for the lane. leave may be called more than once.
func (l *lane) enter(ctx context.Context, stage int, cost float64) (leave func(), err error) {
	t := &ticket{stage: stage, cost: cost, grant: make(chan struct{})}
	l.mu.Lock()
	l.waiting = append(l.waiting, t)
	if !l.busy {
		l.busy = true
		time.AfterFunc(settle, l.next)
	}
	l.mu.Unlock()
	select {
	case <-t.grant:
		return sync.OnceFunc(l.next), nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	i := slices.Index(l.waiting, t)
	if i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
	l.mu.Unlock()
	if i < 0 {
		l.next() // granted in the same moment: pass it on
	}
	return nil, context.Cause(ctx)
}

// next lets the build through that goes first, or leaves the lane idle.
func (l *lane) next() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		l.busy = false
		return
	}
	best := 0
	for i, t := range l.waiting {
		if t.before(l.waiting[best]) {
			best = i
		}
	}
	t := l.waiting[best]
	l.waiting = slices.Delete(l.waiting, best, best+1)
	close(t.grant)
}
