package environment

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/fake"
)

// The folder of an environment that was only about to be made goes; that of one of which anything
// is there, or may be, stays.
func TestDiscardUnmade(t *testing.T) {
	s := newSmall(t)
	discard := func() (left bool) {
		t.Helper()
		p := s.open(Selection{})
		defer p.Close()
		if err := p.journal.Begin(driver.Effect{Kind: directoryEffect, ID: p.StateDir}); err != nil {
			t.Fatal(err)
		}
		if err := p.DiscardUnmade(t.Context()); err != nil {
			t.Error(err)
		}
		_, err := os.Stat(p.StateDir)
		return err == nil
	}
	s.cluster.Fail("Observe", fake.Fault{Times: 1, Error: "nobody can say"})
	if !discard() {
		t.Error("what cannot be seen is gone")
	}
	if discard() {
		t.Error("nothing was made, and its folder is left")
	}
	s.mustUp(Selection{})
	if !discard() {
		t.Error("the folder of an environment that runs is gone")
	}
}

// Removal goes on when a part of it fails, says all that went wrong and all that is left, and keeps what a
// second try needs.
func TestRemoveGoesOn(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	s.cluster.Fail("Delete", fake.Fault{Times: 1, Error: "a mount is busy"})
	s.cluster.Fail("Audit", fake.Fault{Times: 1, Leaks: []string{"mount /x"}})
	p := s.open(Selection{})
	leaks, err := p.Remove(t.Context())
	if err == nil || !strings.Contains(err.Error(), "a mount is busy") || !strings.Contains(err.Error(), "stays in "+p.StateDir) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(p.StateDir); err != nil {
		t.Error(err)
	}
	if all := strings.Join(leaks, "\n"); !strings.Contains(all, "mount /x") || !strings.Contains(all, "listener of the API") {
		t.Errorf("%v", leaks)
	}
	if err := p.Close(); err != nil { // again
		t.Error(err)
	}
	p = s.open(Selection{})
	if leaks, err := p.Remove(t.Context()); err != nil || len(leaks) > 0 {
		t.Errorf("a second try: %v, %v", leaks, err)
	}
	if _, err := os.Stat(p.StateDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder after it: %v", err)
	}
}
