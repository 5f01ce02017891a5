package native

import (
	"encoding/json"
	"os"
	"path/filepath"
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

// A service that has something from before starts when there is a file, a new one at once.
func TestServiceStartsAfterAFile(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	svc := service{Name: "x", After: to, AfterIf: from}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	s := newServiceSet(nil, nil, w)
	defer s.halt()
	s.awaitFile(svc, 0)
	if err := os.Mkdir(filepath.Join(from, "pod"), 0o755); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { s.awaitFile(svc, 1); close(done) }()
	if err := r.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var e initEvent
	if err := json.NewDecoder(r).Decode(&e); err != nil || e.State != "waiting" || e.Restarts != 1 {
		t.Fatalf("%+v, %v: the first of them was to wait", e, err)
	}
	select {
	case <-done:
		t.Fatal("it did not wait")
	default:
	}
	if err := os.WriteFile(filepath.Join(to, "10.conf"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("it waits although there is a file")
	}
}
