package outbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/apps/pulse/internal/event"
)

func some(sequence uint64) event.Event {
	return event.Event{Producer: "p", Sequence: sequence, Created: time.Unix(7, 0).UTC(), Data: []byte("data")}
}

func TestSurvivesAReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "outbox")
	o, err := Open(dir, 10, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Put(some(1), some(2), some(3), some(2)); err != nil {
		t.Fatal(err)
	}
	if err := o.Done(some(2).ID()); err != nil {
		t.Fatal(err)
	}
	// What a killed process leaves.
	if err := os.WriteFile(filepath.Join(dir, "p.4"+draft), []byte(`{"pro`), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err = Open(dir, 10, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	events, err := o.Next(10)
	if err != nil || len(events) != 2 || events[0].ID() != "p.1" || events[1].ID() != "p.3" ||
		string(events[1].Data) != "data" || !events[1].Created.Equal(some(3).Created) {
		t.Errorf("handed out %+v, %v; want p.1 and p.3 as they were", events, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "p.4"+draft)); err == nil {
		t.Error("a draft is still there")
	}
}

func TestFull(t *testing.T) {
	o, err := Open(t.TempDir(), 3, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Put(some(1), some(2)); err != nil {
		t.Fatal(err)
	}
	if err := o.Put(some(3), some(4)); !errors.Is(err, ErrFull) {
		t.Errorf("a fourth event: %v, want ErrFull", err)
	}
	if n := o.Len(); n != 2 {
		t.Errorf("%d events after a refused pair, want 2: all or none", n)
	}
	if o.Full() {
		t.Error("two of three is full")
	}
	if err := o.Put(some(3)); err != nil || !o.Full() {
		t.Errorf("third: %v, full: %v", err, o.Full())
	}
	small, err := Open(t.TempDir(), 3, 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := small.Put(some(1)); !errors.Is(err, ErrFull) {
		t.Errorf("more bytes than there is room: %v", err)
	}
}

func TestUnreadable(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"p.1": `{"producer":"p","sequence":1}`, "p.2": `{`, "p.3": `{"producer":"q","sequence":3}`} {
		if err := os.WriteFile(filepath.Join(dir, name+suffix), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o, err := Open(dir, 10, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	events, err := o.Next(10)
	if len(events) != 1 || err == nil || !strings.Contains(err.Error(), "p.2") || !strings.Contains(err.Error(), "holds event q.3") {
		t.Errorf("%d events, %v; want the good one and both errors", len(events), err)
	}
	if events, err := o.Next(10); len(events) != 1 || err != nil {
		t.Errorf("again: %d events, %v; the bad ones are set aside", len(events), err)
	}
}
