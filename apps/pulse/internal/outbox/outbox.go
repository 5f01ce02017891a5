// Package outbox keeps on disk the events that were taken on and not acknowledged yet.
// What is in it has been promised to somebody; it outlives the process, and is handed out
// until JetStream has it.
//
// An event is a file of its own, written under another name, flushed and renamed: half an
// event is never read. The package knows neither NATS nor HTTP.
package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/orrery-dev/orrery/apps/pulse/internal/event"
)

// ErrFull is returned when nothing more fits: the sender keeps its event.
var ErrFull = errors.New("the outbox is full")

const (
	suffix = ".event"
	draft  = ".draft"
)

// Outbox is safe for concurrent use by one process.
type Outbox struct {
	dir      string
	maxFiles int
	maxBytes int64

	mu    sync.Mutex
	files map[string]int64 // ID → size
	bytes int64
}

// stored is the content of a file.
type stored struct {
	Producer string    `json:"producer"`
	Sequence uint64    `json:"sequence"`
	Created  time.Time `json:"created"`
	Data     []byte    `json:"data,omitempty"`
}

// Open a folder, which is made when it is missing. What is there already is handed out
// again. It holds at most maxFiles events and maxBytes.
func Open(dir string, maxFiles int, maxBytes int64) (*Outbox, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	o := &Outbox{dir: dir, maxFiles: maxFiles, maxBytes: maxBytes, files: map[string]int64{}}
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case draft: // of a process that ended while it wrote; nobody was promised this one
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("outbox: %w", err)
			}
		case suffix:
			info, err := e.Info()
			if err != nil {
				return nil, fmt.Errorf("outbox: %w", err)
			}
			o.files[strings.TrimSuffix(e.Name(), suffix)] = info.Size()
			o.bytes += info.Size()
		}
	}
	return o, nil
}

// Put keeps events, all of them or none. It returns once they are on the disk. Events
// that are in it already stay as they are.
func (o *Outbox) Put(events ...event.Event) (err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var written []string
	defer func() {
		if err != nil {
			for _, id := range written {
				_ = os.Remove(filepath.Join(o.dir, id+suffix))
				o.forget(id)
			}
		}
	}()
	for _, e := range events {
		id := e.ID()
		if _, ok := o.files[id]; ok {
			continue
		}
		data, err := json.Marshal(stored{e.Producer, e.Sequence, e.Created, e.Data})
		if err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
		if len(o.files) >= o.maxFiles || o.bytes+int64(len(data)) > o.maxBytes {
			return fmt.Errorf("%w: it holds %d events, %d bytes", ErrFull, len(o.files), o.bytes)
		}
		if err := writeFile(filepath.Join(o.dir, id), data); err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
		o.files[id] = int64(len(data))
		o.bytes += int64(len(data))
		written = append(written, id)
	}
	if len(written) == 0 {
		return nil
	}
	return o.syncDir()
}

// writeFile returns once the content is on the disk.
func writeFile(path string, data []byte) error {
	file, err := os.OpenFile(path+draft, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err == nil {
		err = os.Rename(path+draft, path+suffix)
	}
	if err != nil {
		_ = os.Remove(path + draft)
	}
	return err
}

func (o *Outbox) syncDir() error {
	dir, err := os.Open(o.dir)
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

// Len is how many events are kept.
func (o *Outbox) Len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.files)
}

// Full says whether more than nine tenths of the room are taken.
func (o *Outbox) Full() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.files)*10 > o.maxFiles*9 || o.bytes*10 > o.maxBytes*9
}

// Next returns up to limit of the events, and the errors of files that cannot be read,
// which are set aside under another name.
func (o *Outbox) Next(limit int) ([]event.Event, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ids := make([]string, 0, len(o.files))
	for id := range o.files {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var events []event.Event
	var errs []error
	for _, id := range ids[:min(limit, len(ids))] {
		e, err := o.read(id)
		if err != nil {
			path := filepath.Join(o.dir, id)
			errs = append(errs, fmt.Errorf("outbox: %s: %w", id, err), os.Rename(path+suffix, path+".unreadable"))
			o.forget(id)
			continue
		}
		events = append(events, e)
	}
	return events, errors.Join(errs...)
}

func (o *Outbox) read(id string) (event.Event, error) {
	data, err := os.ReadFile(filepath.Join(o.dir, id+suffix))
	if err != nil {
		return event.Event{}, err
	}
	var s stored
	if err := json.Unmarshal(data, &s); err != nil {
		return event.Event{}, err
	}
	e := event.Event{Producer: s.Producer, Sequence: s.Sequence, Created: s.Created, Data: s.Data}
	if err := e.Check(); err != nil {
		return event.Event{}, err
	}
	if e.ID() != id {
		return event.Event{}, fmt.Errorf("it holds event %s", e.ID())
	}
	return e, nil
}

// Done forgets an event: JetStream has it.
func (o *Outbox) Done(id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	err := os.Remove(filepath.Join(o.dir, id+suffix))
	o.forget(id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

func (o *Outbox) forget(id string) {
	o.bytes -= o.files[id]
	delete(o.files, id)
}
