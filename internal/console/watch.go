package console

import (
	"context"
	"html/template"
	"slices"
	"sync"
	"time"
)

// watcher looks at the environment again and again and keeps what it saw last.
type watcher struct {
	look     func(context.Context) (Snapshot, error)
	interval time.Duration

	mu      sync.Mutex
	last    Snapshot
	at      time.Time // of last; zero before the first
	failed  error     // of the latest look, nil when it succeeded
	since   time.Time // of the first of the failures in a row
	wanted  time.Time // somebody looked at it last
	wake    chan struct{}
	changed chan struct{}
}

// idle is how long nobody may look before the watcher rests.
const idle = 30 * time.Second

func newWatcher(look func(context.Context) (Snapshot, error), interval time.Duration) *watcher {
	return &watcher{look: look, interval: interval, wanted: time.Now(), wake: make(chan struct{}, 1), changed: make(chan struct{})}
}

// run looks until ctx ends, and rests while nobody is interested.
func (w *watcher) run(ctx context.Context) {
	for {
		w.once(ctx)
		next := time.After(w.interval)
		w.mu.Lock()
		if time.Since(w.wanted) > idle {
			next = nil
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
			if next == nil {
				continue
			}
			select {
			case <-ctx.Done():
				return
			case <-next:
			}
		case <-next:
		}
	}
}

func (w *watcher) once(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := w.look(bounded)
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		if w.failed == nil {
			w.since = time.Now()
		}
		w.failed = err
		w.merge(s)
	} else {
		w.last, w.at, w.failed = s, time.Now(), nil
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// merge takes over what could be seen all the same, such as the nodes' processes, and keeps
// the rest from before. The caller holds the lock.
func (w *watcher) merge(s Snapshot) {
	switch {
	case w.at.IsZero():
		w.last = s
	case len(s.Nodes) > 0 && len(s.Nodes) == len(w.last.Nodes):
		for i, was := range w.last.Nodes {
			s.Nodes[i].Pods, s.Nodes[i].CPU, s.Nodes[i].Memory = was.Pods, was.CPU, was.Memory
		}
		w.last.Nodes, w.last.Phase = s.Nodes, s.Phase
	case s.Phase == "absent":
		gone := slices.Clone(w.last.Nodes) // pages may be reading the old ones
		for i := range gone {
			gone[i].Health, gone[i].State = Off, "gone"
		}
		w.last.Nodes, w.last.Phase = gone, s.Phase
	}
}

// sight is what was seen last, and when.
type sight struct {
	snapshot Snapshot
	at       time.Time
	stale    error     // why nothing newer was seen; nil when it is fresh
	since    time.Time // of stale
	changed  <-chan struct{}
}

// view returns what was seen last, and wakes the watcher if it slept.
func (w *watcher) view() sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.wanted) > idle {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	w.wanted = time.Now()
	return sight{w.last, w.at, w.failed, w.since, w.changed}
}

// drawer draws panels side by side, a few at a time, and keeps what it drew, so that a
// page is there at once and what fails keeps its last picture.
type drawer struct {
	draw func(context.Context, ask) (template.HTML, error)
	base context.Context // ends with the console
	room chan struct{}

	mu   sync.Mutex
	kept map[string]*drawn
	wg   sync.WaitGroup
}

type drawn struct {
	html   template.HTML
	err    error
	at     time.Time     // of html
	asked  time.Time     // last wanted
	busy   chan struct{} // closed when drawing ends; nil when nobody draws
	failed bool          // html stays from before
}

const (
	fresh   = 4 * time.Second // a picture younger than this is not drawn again
	perDraw = 15 * time.Second
	keep    = 400 // pictures
)

func newDrawer(ctx context.Context, draw func(context.Context, ask) (template.HTML, error)) *drawer {
	return &drawer{draw: draw, base: ctx, room: make(chan struct{}, 6), kept: map[string]*drawn{}}
}

// get is the picture of a panel: what is kept is renewed when it is old, and waited for
// until ctx ends. ok is false while there is no picture at all.
func (w *drawer) get(ctx context.Context, a ask) (html template.HTML, stale, ok bool) {
	w.mu.Lock()
	k := w.kept[a.key()]
	if k == nil {
		w.forget()
		k = &drawn{}
		w.kept[a.key()] = k
	}
	k.asked = time.Now()
	if k.busy == nil && time.Since(k.at) > fresh && w.base.Err() == nil {
		k.busy = make(chan struct{})
		w.wg.Go(func() { w.renew(a, k) })
	}
	busy := k.busy
	w.mu.Unlock()
	if busy != nil {
		select {
		case <-busy:
		case <-ctx.Done():
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case k.html != "":
		return k.html, k.failed, true
	case k.err != nil:
		return failure(k.err), false, true
	}
	return "", false, false
}

func (w *drawer) renew(a ask, k *drawn) {
	var html template.HTML
	var err error
	select {
	case w.room <- struct{}{}:
		ctx, cancel := context.WithTimeout(w.base, perDraw)
		html, err = w.draw(ctx, a)
		cancel()
		<-w.room
	case <-w.base.Done():
		err = w.base.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	k.err, k.failed = err, err != nil
	if err == nil {
		k.html = html
	}
	k.at = time.Now()
	close(k.busy)
	k.busy = nil
}

// forget drops what nobody looked at for longest.
func (w *drawer) forget() {
	if len(w.kept) < keep {
		return
	}
	for key, k := range w.kept {
		if k.busy == nil && time.Since(k.asked) > time.Minute {
			delete(w.kept, key)
		}
	}
}

func (w *drawer) wait() { w.wg.Wait() }
