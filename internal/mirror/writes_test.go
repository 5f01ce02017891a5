package mirror

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// A hold begins when no push is in the middle, has others wait, and gives up with the reason.
func TestHoldWaitsForPushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w Writes
		const quiet = 2 * time.Second
		if err := w.begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		started := time.Now()
		go func() { // asks, sends for a minute, and names it a second later
			time.Sleep(time.Minute)
			w.end()
			time.Sleep(time.Second)
			if err := w.begin(t.Context()); err != nil {
				t.Error(err)
			}
			w.end()
		}()
		short, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, err := w.Hold(short, quiet); !errors.Is(err, ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("during a push: %v", err)
		}
		release, err := w.Hold(t.Context(), quiet)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(started); took != time.Minute+3*time.Second {
			t.Errorf("held after %s, want two quiet seconds after the push", took)
		}
		began := false
		go func() {
			if err := w.begin(t.Context()); err != nil {
				t.Error(err)
			}
			began = true
			w.end()
		}()
		gone, cancelled := context.WithCancel(t.Context())
		cancelled()
		if err := w.begin(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("who does not wait any longer: %v", err)
		}
		if _, err := w.Hold(short, quiet); !errors.Is(err, ErrBusy) {
			t.Errorf("a second hold: %v", err)
		}
		synctest.Wait()
		if began {
			t.Error("a push goes on during a hold")
		}
		release()
		synctest.Wait()
		if !began {
			t.Error("a push waits after the hold")
		}
	})
}

func TestWhatIsPartOfAPush(t *testing.T) {
	const digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for request, want := range map[[2]string]bool{
		{"POST", "/v2/a/blobs/uploads/"}: true, {"PUT", "/v2/a/manifests/1"}: true, {"HEAD", "/v2/a/blobs/" + digest}: true,
		{"GET", "/v2/a/blobs/" + digest}: false, {"HEAD", "/v2/a/manifests/" + digest}: true,
		{"GET", "/v2/a/manifests/1"}: false, {"GET", "/v2/"}: false,
	} {
		r, err := http.NewRequestWithContext(t.Context(), request[0], "http://127.0.0.1"+request[1], nil)
		if err != nil {
			t.Fatal(err)
		}
		if pushes(r) != want {
			t.Errorf("%v: %t", request, !want)
		}
	}
}

// Through the gate pushes wait during a hold, and reads do not.
func TestGateHoldsPushes(t *testing.T) {
	inner := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer inner.Close()
	var w Writes
	server := httptest.NewServer(Gate{
		Hosts: []string{"127.0.0.1"}, Log: slog.New(slog.DiscardHandler), Writes: &w,
		Password: func() (string, error) { return "secret", nil },
		Dial: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", inner.Listener.Addr().String())
		},
	}.Handler())
	defer server.Close()
	ask := func(ctx context.Context, method, path string) (int, error) {
		r, err := http.NewRequestWithContext(ctx, method, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth(User, "secret")
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	release, err := w.Hold(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if code, err := ask(t.Context(), "GET", "/v2/a/manifests/1"); code != http.StatusNotFound {
		t.Errorf("a read during a hold: %d, %v", code, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if code, err := ask(short, "POST", "/v2/a/blobs/uploads/"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a push during a hold: %d, %v", code, err)
	}
	release()
	if code, err := ask(t.Context(), "POST", "/v2/a/blobs/uploads/"); code != http.StatusAccepted {
		t.Errorf("a push after it: %d, %v", code, err)
	}
	if release, err = w.Hold(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	release()
}
