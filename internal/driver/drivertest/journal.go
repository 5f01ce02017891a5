package drivertest

import (
	"slices"
	"sync"

	"github.com/orrery-dev/orrery/internal/driver"
)

// Journal is a [driver.Journal] in memory. An effect that is begun again counts once.
type Journal struct {
	mu   sync.Mutex
	live []driver.Effect
}

// Begin notes an effect.
func (j *Journal) Begin(e driver.Effect) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !slices.ContainsFunc(j.live, same(e)) {
		j.live = append(j.live, e)
	}
	return nil
}

// Undone forgets an effect.
func (j *Journal) Undone(e driver.Effect) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.live = slices.DeleteFunc(j.live, same(e))
	return nil
}

// Live are the effects that were begun and not undone.
func (j *Journal) Live() []driver.Effect {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.live)
}

func same(e driver.Effect) func(driver.Effect) bool {
	return func(o driver.Effect) bool { return o.Kind == e.Kind && o.ID == e.ID }
}
