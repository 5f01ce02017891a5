package console

import (
	"context"
	"sync"
	"time"

	"github.com/orrery-dev/orrery/internal/flow"
)

// FollowFlows gives what the network sees from a moment on, until ctx ends. What is missing
// though there is an answer, such as the flows of one node, is told to trouble. Both are
// called from several goroutines.
type FollowFlows func(ctx context.Context, since time.Time, give func(flow.Flow), trouble func(node string, err error)) error

// flowWatcher follows flows while somebody looks at them, and keeps who speaks to whom.
type flowWatcher struct {
	follow FollowFlows
	base   context.Context // ends with the console
	again  time.Duration   // after a failure

	mu      sync.Mutex
	m       *flow.Map
	running bool
	wanted  time.Time
	seen    int              // flows
	failed  error            // why there is nothing new; nil when all is well
	trouble map[string]error // by node
	wg      sync.WaitGroup
}

func newFlowWatcher(ctx context.Context, follow FollowFlows) *flowWatcher {
	return &flowWatcher{follow: follow, base: ctx, again: 3 * time.Second}
}

// traffic is who speaks to whom, as far as it is known.
type traffic struct {
	Edges   []flow.Edge
	At      time.Time
	Seen    int
	Failed  error
	Trouble map[string]error
}

// view returns what is known, and begins to follow when nobody looked before.
func (w *flowWatcher) view(now time.Time) traffic {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wanted = now
	if !w.running && w.follow != nil && w.base.Err() == nil {
		w.running = true
		w.m, w.seen, w.failed, w.trouble = flow.NewMap(now), 0, nil, map[string]error{}
		w.wg.Go(w.run)
	}
	t := traffic{At: now, Seen: w.seen, Failed: w.failed, Trouble: map[string]error{}}
	for node, err := range w.trouble {
		t.Trouble[node] = err
	}
	if w.m != nil {
		t.Edges = w.m.Edges(now)
	}
	return t
}

// run follows until nobody looks any more, and begins anew after a failure.
func (w *flowWatcher) run() {
	ctx, cancel := context.WithCancel(w.base)
	defer cancel()
	w.wg.Go(func() {
		tick := time.NewTicker(idle / 6)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if w.rests() {
					cancel()
				}
			}
		}
	})
	since := time.Now().Add(-flow.Window)
	for {
		err := w.follow(ctx, since, w.add, w.tell)
		if w.ends(ctx, err) {
			return
		}
		since = time.Now()
		next := time.NewTimer(w.again)
		select {
		case <-ctx.Done():
		case <-next.C:
		}
		next.Stop()
	}
}

// rests is true when nobody looked for a while.
func (w *flowWatcher) rests() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.wanted) > idle
}

// ends writes down why there is nothing new, or that nobody follows any more.
func (w *flowWatcher) ends(ctx context.Context, err error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		w.running = false
		return true
	}
	w.failed = err
	return false
}

func (w *flowWatcher) add(f flow.Flow) {
	w.mu.Lock()
	w.seen++
	w.failed = nil
	m := w.m
	w.mu.Unlock()
	m.Add(f)
}

func (w *flowWatcher) tell(node string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trouble[node] = err
}

func (w *flowWatcher) wait() { w.wg.Wait() }
