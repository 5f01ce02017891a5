package image

import "sync"

// traffic counts bytes from several goroutines.
type traffic struct {
	mu          sync.Mutex
	done, total float64
}

func (t *traffic) add(n float64, report func(done, total float64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done += n
	if report != nil {
		report(t.done, t.total)
	}
}
