package flow

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// held is how long a flow is kept back while following, so that those of other nodes that
// are older come first. Nodes print about when they see.
const held = 300 * time.Millisecond

// Follow gives the flows that q selects to show, in the order of their time as far as they
// arrive within a moment of each other, until ctx ends, show returns an error, or no node can
// be asked any more. A single node that ends is told to Trouble.
func (s Source) Follow(ctx context.Context, q Query, show func(Flow) error) error {
	program, servers, err := s.find(ctx, q)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	flows := make(chan Flow, 256)
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, server := range servers {
		wg.Go(func() {
			errs[i] = s.observe(ctx, program, server, q, true, func(f Flow) error {
				select {
				case flows <- f:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
			if ctx.Err() == nil && len(servers) > 1 && errs[i] != nil {
				s.tell(server.Node, errs[i])
			}
		})
	}
	go func() {
		wg.Wait()
		close(flows)
	}()
	shown := merge(ctx, flows, held, show)
	cancel(shown)
	for range flows { // those who read are let go
	}
	if shown != nil {
		return shown
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// arrived is a flow and when it came.
type arrived struct {
	flow Flow
	at   time.Time
}

type byTime []arrived

func (h byTime) Len() int           { return len(h) }
func (h byTime) Less(i, j int) bool { return order(h[i].flow, h[j].flow) < 0 }
func (h byTime) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *byTime) Push(x any)        { *h = append(*h, x.(arrived)) }
func (h *byTime) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

// merge shows what comes, oldest first, each once it was held for that long. It returns when
// flows is closed and all are shown, when ctx ends, or what show returns.
func merge(ctx context.Context, flows <-chan Flow, held time.Duration, show func(Flow) error) error {
	var waiting byTime
	timer := time.NewTimer(held)
	defer timer.Stop()
	open := true
	for open || len(waiting) > 0 {
		// The oldest decides how long to wait: what it came with may not be the oldest to come.
		var due <-chan time.Time
		if len(waiting) > 0 {
			left := time.Until(waiting[0].at.Add(held))
			if left <= 0 || !open {
				next := heap.Pop(&waiting).(arrived)
				if err := show(next.flow); err != nil {
					return err
				}
				continue
			}
			timer.Reset(left)
			due = timer.C
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case f, more := <-flows:
			if !more {
				open, flows = false, nil
				continue
			}
			heap.Push(&waiting, arrived{f, time.Now()})
		case <-due:
		}
	}
	return nil
}
