package native

import (
	"encoding/json"
	"os"
	"testing"
	"time"
)

// A service whose wait ended with an error, such as over a file that is not there yet, is tried again.
func TestServiceIsSupervisedAfterAFailedWait(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if exists(nodePKI + "ca.crt") {
		t.Skip("this machine is a node")
	}
	s := newServiceSet([]service{{Name: "x", Args: []string{"/bin/true"}, Wait: "https://127.0.0.1:1/readyz"}}, nil, w)
	done := make(chan struct{})
	go func() { s.supervise(s.services[0]); close(done) }()
	events := json.NewDecoder(r)
	if err := r.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for failed := 0; failed < 2; {
		var e initEvent
		if err := events.Decode(&e); err != nil {
			t.Fatalf("after %d failures: %v", failed, err)
		}
		if e.State == "failed" {
			failed++
		}
	}
	s.halt()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("it goes on after the stop")
	}
}
