package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// jsonEvery is how often the progress of one step is written: a compiler counts
// thousands of packages, and no reader wants a line for each.
const jsonEvery = time.Second

// jsonLines writes one event per line.
type jsonLines struct {
	mu     sync.Mutex
	enc    *json.Encoder
	err    error
	closed bool
	last   map[string]time.Time // of a step's progress
}

func newJSON(w io.Writer) *jsonLines {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return &jsonLines{enc: enc, last: map[string]time.Time{}}
}

// Emit writes e. Data that cannot be encoded is told in Error.
func (j *jsonLines) Emit(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || j.err != nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Type == TypeProgress {
		if last, ok := j.last[e.Step]; ok && e.Time.Sub(last) < jsonEvery {
			return
		}
		j.last[e.Step] = e.Time
	}
	if e.Data == nil {
		j.err = j.enc.Encode(e)
		return
	}
	data, err := json.Marshal(e.Data)
	if err != nil {
		e.Error, e.Data = fmt.Sprintf("data: %v", err), nil
		j.err = j.enc.Encode(e)
		return
	}
	var fields map[string]json.RawMessage
	if e.Type != TypeSummary || json.Unmarshal(data, &fields) != nil {
		e.Data = json.RawMessage(data)
		j.err = j.enc.Encode(e)
		return
	}
	fields["time"], _ = json.Marshal(e.Time)
	fields["type"], _ = json.Marshal(e.Type)
	if e.Error != "" {
		fields["error"], _ = json.Marshal(e.Error)
	}
	j.err = j.enc.Encode(fields)
}

// Close returns the first error of writing.
func (j *jsonLines) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	return j.err
}
