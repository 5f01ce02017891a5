package native

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// placement is what is known of a program, or a folder of programs, of the nodes since it was
// put there and verified.
type placement struct {
	// Tree and Stamp are those of [layerRecord]: while Stamp is the same nothing was written, and
	// Tree need not be computed.
	Tree  string `json:"tree"`
	Stamp string `json:"stamp"`
}

// placed keeps those who write the file apart; one verb at a time changes an environment.
var placed sync.Mutex

func (p paths) programs() string { return p.join("dist", "programs.json") }

func (p paths) placements() (map[string]placement, error) {
	b, err := os.ReadFile(p.programs())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	all := map[string]placement{}
	if err == nil {
		err = json.Unmarshal(b, &all)
	}
	if err != nil {
		return nil, fmt.Errorf("what is known of the nodes' programs, %s: %w; 'orrery up' places them anew", p.programs(), err)
	}
	return all, nil
}

// Installed implements [driver.Distributor].
func (d *Driver) Installed(names ...string) error {
	p := d.paths
	known, _ := p.placements() // a damaged one is written anew: what is placed now is verified
	now := map[string]placement{}
	for _, name := range names {
		var err error
		if now[name], err = p.measure(name, known[name]); err != nil {
			return fmt.Errorf("note what was placed: %w", err)
		}
	}
	placed.Lock()
	defer placed.Unlock()
	all, _ := p.placements()
	if all == nil {
		all = map[string]placement{}
	}
	maps.Copy(all, now)
	_, err := writeJSON(p.programs(), all)
	return err
}

// measure is known as long as nothing hints at a change.
func (p paths) measure(name string, known placement) (placement, error) {
	at, err := filepath.EvalSymlinks(p.join("dist", name))
	if err != nil {
		return placement{}, err
	}
	if _, stamp, err := layerSums(at, false); err != nil || stamp == known.Stamp {
		return known, err
	}
	tree, stamp, err := layerSums(at, true)
	return placement{tree, stamp}, err
}

// programs checks before each start that what is run is what was placed. What was placed by an
// orrery that noted nothing is taken as it is.
type programs struct {
	paths paths

	mu   sync.Mutex
	seen map[string]placement // with today's stamp: other environments have links to the same files
}

// check looks at the programs of those names, or at all.
func (c *programs) check(names ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	all, err := c.paths.placements()
	if err != nil || all == nil {
		return err
	}
	if len(names) == 0 {
		for name := range all {
			names = append(names, name)
		}
		slices.Sort(names)
	}
	var errs []error
	for _, name := range names {
		want, ok := all[name]
		if !ok {
			errs = append(errs, fmt.Errorf("%s was not placed by 'orrery up'", c.paths.join("dist", name)))
			continue
		}
		known := want
		if s, ok := c.seen[name]; ok && s.Tree == want.Tree {
			known = s
		}
		now, err := c.paths.measure(name, known)
		if err == nil && now.Tree != want.Tree {
			err = fmt.Errorf("%s is not what 'orrery up' verified and placed", c.paths.join("dist", name))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if c.seen == nil {
			c.seen = map[string]placement{}
		}
		c.seen[name] = now
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("nothing is started: programs of the nodes were changed: %w\n  find out who did it; 'orrery up' verifies and places them anew", err)
	}
	return nil
}
