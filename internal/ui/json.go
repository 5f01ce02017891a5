package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// jsonLines writes one event per line.
type jsonLines struct {
	mu     sync.Mutex
	enc    *json.Encoder
	err    error
	closed bool
}

func newJSON(w io.Writer) *jsonLines {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return &jsonLines{enc: enc}
}

// Emit writes e. What cannot be encoded is told in its Error and never lost silently.
func (j *jsonLines) Emit(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || j.err != nil {
		return
	}
	if e.Data != nil {
		if _, err := json.Marshal(e.Data); err != nil {
			e.Error, e.Data = fmt.Sprintf("data: %v", err), nil
		}
	}
	j.err = j.enc.Encode(e)
}

// Close returns the first error of writing.
func (j *jsonLines) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	return j.err
}
