package build

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/ui"
)

// progress is one look at a build.
type progress struct {
	message     string
	done, total int
	eta         time.Duration // 0 when unknown
}

func (p progress) event() ui.Event {
	// Half seconds would only flicker.
	return ui.Event{Message: p.message, Done: float64(p.done), Total: float64(p.total), Unit: "packages", ETA: math.Round(p.eta.Seconds())}
}

// meter follows one build. What counts are the packages that had to be compiled: those
// that Go's cache has already are neither done nor to do.
type meter struct {
	bin     catalog.Binary
	main    string // import path of the main package
	linking func()

	mu       sync.Mutex
	began    time.Time
	pid      int
	all      int             // packages, 0 until counted
	todo     map[string]bool // to compile when counted, or seen compiled
	compiled map[string]bool
	now      string // what is being done, for the message
	inLink   bool
	changed  bool
}

func newMeter(bin catalog.Binary, main string, linking func()) *meter {
	return &meter{bin: bin, main: main, linking: linking, began: time.Now(), now: "loading packages", changed: true,
		todo: map[string]bool{}, compiled: map[string]bool{}}
}

func (m *meter) process(pid int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pid = pid
}

// total takes what `go list` found. The build may have compiled some of it meanwhile.
func (m *meter) total(all int, stale []string) {
	m.mu.Lock()
	m.all, m.changed = all, true
	for _, p := range stale {
		m.todo[p] = true
	}
	m.mu.Unlock()
	m.checkLink()
}

func (m *meter) counted() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all > 0
}

// stalePart is how much of the program has to be compiled, 0 to 1.
func (m *meter) stalePart() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == 0 {
		return 1
	}
	return min(1, float64(len(m.todo))/float64(m.all))
}

// line takes a line that go build wrote, and reports whether it was about progress.
func (m *meter) line(s string) bool {
	if rest, ok := strings.CutPrefix(s, "go: downloading "); ok {
		m.mu.Lock()
		m.now, m.changed = "downloading "+strings.Replace(rest, " ", "@", 1), true
		m.mu.Unlock()
		return true
	}
	// With -v, a line that is one word is a package that is about to be compiled.
	if s == "" || strings.ContainsAny(s, " \t:") {
		return false
	}
	m.mu.Lock()
	m.todo[s], m.compiled[s] = true, true
	m.now, m.changed = "compiling "+s, true
	m.mu.Unlock()
	m.checkLink()
	return true
}

// checkLink notices that only the linker is left. Go announces a package when it starts
// with it, and starts with a main package once all others are done.
func (m *meter) checkLink() {
	m.mu.Lock()
	last := m.all > 0 && !m.inLink
	if last {
		missing := 0
		for p := range m.todo {
			if !m.compiled[p] {
				missing++
			}
		}
		// The main package itself always counts as stale, and is not announced when only
		// its linked form is missing.
		last = missing == 0 || missing == 1 && m.todo[m.main] && !m.compiled[m.main]
	}
	if last {
		m.inLink, m.now, m.changed = true, "linking", true
	}
	m.mu.Unlock()
	if last {
		m.linking()
	}
}

// linkPart is the linker's part of a build's CPU-seconds: measured at 2 % for Kubernetes
// and up to 10 % for small programs.
const linkPart = 0.05

// look is the state of things. The estimate is bound by CPU: what is left, at the pace
// of this machine so far. The measured cost of the whole program serves as the first
// guess and fades out as packages are counted.
func (m *meter) look() progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changed = false
	p := progress{message: fmt.Sprintf("%s %s: %s", m.bin.Name, m.bin.Version, m.now), done: len(m.compiled)}
	if m.all == 0 {
		return p
	}
	p.total = len(m.todo)
	elapsed := time.Since(m.began).Seconds()
	spent := cpuOf(m.pid).Seconds()
	if m.bin.CPUSeconds == 0 || elapsed < 2 {
		return p
	}
	const trust = 50 // packages after which the guess weighs half
	guess := m.bin.CPUSeconds * (1 - linkPart) / float64(m.all)
	each := (guess*trust + spent) / float64(trust+p.done)
	left := each * float64(p.total-p.done)
	if m.inLink {
		left = 0
	}
	left += m.bin.CPUSeconds * linkPart
	pace := max(0.5, spent/elapsed)
	p.eta = max(time.Second, time.Duration(left/pace*float64(time.Second)))
	return p
}

// finish is the last look.
func (m *meter) finish() progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.todo)
	return progress{message: fmt.Sprintf("%s %s: compiled", m.bin.Name, m.bin.Version), done: n, total: n}
}

// report tells what changed, at most four times a second, and the estimate once a second.
func (m *meter) report(ctx context.Context, emit func(progress)) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	emit(m.look())
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		m.mu.Lock()
		due := m.changed || n%4 == 0
		m.mu.Unlock()
		if due {
			emit(m.look())
		}
	}
}
