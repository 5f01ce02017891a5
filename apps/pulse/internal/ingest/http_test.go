package ingest

import (
	"bytes"
	"testing"
)

// FuzzDecode: no body makes an event that checks would have refused, or a panic.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"events":[{"producer":"a","sequence":1,"data":{"x":[1,2]}}]}`))
	f.Add([]byte(`{"events":[{"data":null}]}`))
	f.Add([]byte(`{"events":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		events, status, err := decode(bytes.NewReader(body))
		if (err == nil) != (status == 0) {
			t.Errorf("status %d with error %v", status, err)
		}
		i := &Ingest{Options: Options{Producer: "self"}}
		if err != nil || i.accept(events) != nil {
			return
		}
		for _, e := range events {
			if err := e.Check(); err != nil {
				t.Errorf("%s: accepted %s: %v", body, e.ID(), err)
			}
		}
	})
}
