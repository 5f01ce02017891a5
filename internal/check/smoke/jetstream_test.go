package smoke

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/orrery-dev/orrery/internal/check"
)

// TestExercise runs the check of NATS against three real servers: it has to pass on good
// ones, pass while servers die and leave, and fail on every kind of wrong data.
func TestExercise(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	cluster := startNATS(t, "local")

	t.Run("anonymous", func(t *testing.T) {
		if r := anonymousRefused(cluster.target.anonymous()); r.State != check.Succeeded {
			t.Errorf("%s: %s", r.State, r.Message)
		}
		open := cluster.target
		open.options = slices.Concat(open.options, open.auth)
		if r := anonymousRefused(open); r.State != check.Failed {
			t.Errorf("a client that is let in: %s: %s", r.State, r.Message)
		}
	})

	t.Run("sound", func(t *testing.T) {
		start := time.Now()
		message, err := exercise{messages: natsMessages, replicas: 3}.run(t.Context(), cluster.target)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%v: %s", time.Since(start).Round(time.Millisecond), message)
		if !strings.Contains(message, "file R3, leader") || !strings.Contains(message, "memory R3, leader") {
			t.Errorf("no change of leader in: %s", message)
		}
		noStreams(t, cluster)
	})

	// Before the leaders step down, in which what a test does might get lost.
	for _, test := range []struct {
		name   string
		tamper func(ctx context.Context, js jetstream.JetStream, stream string, n int) error
		err    string // or: any of these, parted by "|"; who sees it first is a race
	}{
		{"message lost", func(ctx context.Context, js jetstream.JetStream, stream string, n int) error {
			if n != 41 {
				return nil
			}
			s, err := js.Stream(ctx, stream)
			if err != nil {
				return err
			}
			return s.DeleteMsg(ctx, 20)
		}, "1 deleted|want message 20"},
		{"message doubled", func(ctx context.Context, js jetstream.JetStream, stream string, n int) error {
			if n != 41 {
				return nil
			}
			_, err := js.Publish(ctx, strings.ReplaceAll(stream, "-", "."), payload(n-1))
			return err
		}, "want message 41|were not sent"},
		{"out of order", func(ctx context.Context, js jetstream.JetStream, stream string, n int) error {
			if n != 41 {
				return nil
			}
			_, err := js.Publish(ctx, strings.ReplaceAll(stream, "-", "."), payload(n+1))
			return err
		}, "want message 41|were not sent"},
		{"start of the stream lost", func(ctx context.Context, js jetstream.JetStream, stream string, n int) error {
			if n != 41 {
				return nil
			}
			s, err := js.Stream(ctx, stream)
			if err != nil {
				return err
			}
			return s.Purge(ctx, jetstream.WithPurgeKeep(5))
		}, "it holds|want message"},
		{"stream lost and made anew", func(ctx context.Context, js jetstream.JetStream, stream string, n int) error {
			if n != 41 {
				return nil
			}
			s, err := js.Stream(ctx, stream)
			if err != nil {
				return err
			}
			config := s.CachedInfo().Config
			if err := js.DeleteStream(ctx, stream); err != nil {
				return err
			}
			_, err = js.CreateStream(ctx, config)
			return err
		}, "stream: "},
		{"publisher fails", func(_ context.Context, _ jetstream.JetStream, _ string, n int) error {
			if n == 41 {
				return errTest
			}
			return nil
		}, errTest.Error()},
	} {
		t.Run(test.name, func(t *testing.T) {
			message, err := exercise{messages: 160, replicas: 3, tamper: test.tamper}.run(t.Context(), cluster.target)
			if err == nil {
				t.Fatalf("it was not noticed: %s", message)
			}
			if !slices.ContainsFunc(strings.Split(test.err, "|"), func(part string) bool { return strings.Contains(err.Error(), part) }) {
				t.Errorf("%v; want it to say %q", err, test.err)
			}
			t.Log(err)
			noStreams(t, cluster)
		})
	}

	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := exercise{messages: 400, replicas: 3, tamper: func(_ context.Context, _ jetstream.JetStream, _ string, n int) error {
			if n == 61 {
				cancel()
			}
			return nil
		}}.run(ctx, cluster.target)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want context.Canceled", err)
		}
		noStreams(t, cluster)
	})

	t.Run("server killed", func(t *testing.T) {
		message, err := exercise{messages: 200, replicas: 3, tamper: once(61, func() { cluster.restart(0, syscall.SIGKILL) })}.run(t.Context(), cluster.target)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(message)
		cluster.awaitHealthy()
	})

	t.Run("lame duck", func(t *testing.T) {
		message, err := exercise{messages: 200, replicas: 3, tamper: once(61, func() { cluster.restart(1, syscall.SIGUSR2) })}.run(t.Context(), cluster.target)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(message)
		cluster.awaitHealthy()
		noStreams(t, cluster)
	})
}

// TestExerciseOverTLS runs production's configuration: TLS for clients, and both ways
// between servers.
func TestExerciseOverTLS(t *testing.T) {
	cluster := startNATS(t, "prod")
	message, err := exercise{messages: 60, replicas: 3}.run(t.Context(), cluster.target)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(message)
	plain := cluster.target
	plain.options = plain.options[:len(plain.options)-1]
	if message, err := (exercise{messages: 1, replicas: 1}).run(t.Context(), plain); err == nil {
		t.Errorf("a client that does not know the servers' CA was content: %s", message)
	}
}

// TestRenewal: servers take renewed certificates while messages are published and read. No client
// is cut off, no message is lost, and who connects afterwards sees the new certificate.
func TestRenewal(t *testing.T) {
	cluster := startNATS(t, "local")
	serial := func() string {
		t.Helper()
		connection := cluster.connect()
		defer connection.Close()
		state, err := connection.TLSConnectionState()
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	watcher := cluster.connect()
	var cut atomic.Int32
	watcher.SetDisconnectErrHandler(func(_ *nats.Conn, err error) { cut.Add(1) })
	renewed := make(chan error, 1)
	message, err := exercise{messages: 300, replicas: 3, tamper: once(61, func() {
		cluster.renew()
		// Each server looks every five seconds.
		go func() {
			renewed <- until(context.Background(), 30*time.Second, func() error {
				for i := range cluster.addr {
					log, _ := os.ReadFile(cluster.file(cluster.dir, i) + ".log")
					if !strings.Contains(string(log), "New certificates are taken") {
						return fmt.Errorf("server %d keeps the old certificate", i)
					}
				}
				return nil
			})
		}()
	})}.run(t.Context(), cluster.target)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-renewed; err != nil {
		t.Fatal(err)
	}
	t.Log(message)
	if after := serial(); after == before {
		t.Error("a new connection sees the old certificate")
	}
	if n := cut.Load(); n > 0 || strings.Contains(message, "reconnect") {
		t.Errorf("clients were cut off: %d times, and %q", n, message)
	}
	// Routes too: what they reconnect with is the new certificate.
	cluster.restart(0, syscall.SIGTERM)
	cluster.awaitHealthy()
	if message, err := (exercise{messages: 60, replicas: 3}).run(t.Context(), cluster.target); err != nil {
		t.Errorf("after a restart: %v %s", err, message)
	}
}

// once calls f before message n of the stream on files.
func once(n int, f func()) func(context.Context, jetstream.JetStream, string, int) error {
	return func(_ context.Context, _ jetstream.JetStream, stream string, now int) error {
		if now == n && strings.HasSuffix(stream, "-file") {
			f()
		}
		return nil
	}
}

func noStreams(t *testing.T, cluster *natsCluster) {
	t.Helper()
	connection := cluster.connect()
	js, err := jetstream.New(connection)
	if err != nil {
		t.Fatal(err)
	}
	// A stream deleted a moment ago may still be listed by a server that lags.
	err = until(t.Context(), 5*time.Second, func() error {
		names := js.StreamNames(t.Context())
		for name := range names.Name() {
			return errors.New("left behind: " + name)
		}
		return names.Err()
	})
	if err != nil {
		t.Error(err)
	}
	connection.Close()
}
