package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/orrery-dev/orrery/apps/pulse/internal/credential"
	"github.com/orrery-dev/orrery/apps/pulse/internal/event"
	"github.com/orrery-dev/orrery/apps/pulse/internal/ledger"
	"github.com/orrery-dev/orrery/apps/pulse/internal/messaging"
	"github.com/orrery-dev/orrery/apps/pulse/internal/natstest"
	"github.com/orrery-dev/orrery/apps/pulse/internal/ranges"
	"github.com/orrery-dev/orrery/apps/pulse/internal/store"
	"github.com/orrery-dev/orrery/apps/pulse/internal/telemetry"
	"github.com/orrery-dev/orrery/apps/pulse/internal/worker"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) { http.DefaultClient.CloseIdleConnections() }))
}

// TestServerKilledWhileEventsFlow: senders go on while NATS goes away and comes back.
// What was answered with 200 is delivered, and nothing counts twice.
func TestServerKilledWhileEventsFlow(t *testing.T) {
	server := natstest.Start(t)
	in := start(t, server, "ingest", nil)
	workers := []*process{start(t, server, "worker", nil), start(t, server, "worker", nil)}
	in.ready()
	for _, w := range workers {
		w.ready()
	}
	const events = 150
	var kept, refused int
	var senders sync.WaitGroup
	send := func(producer string) {
		for n := 1; n <= events; n++ {
			for {
				status, _ := in.post(producer, n, n)
				if status == http.StatusOK {
					break
				}
				if status == http.StatusAccepted {
					kept++
					break
				}
				refused++
			}
			time.Sleep(2 * time.Millisecond) // a sender with a rate; every event is waited for below
		}
	}
	senders.Go(func() { send("flow") })
	for range 2 {
		time.Sleep(100 * time.Millisecond) // a moment in the middle of the flow, whichever
		server.Kill()
		eventually(t, func() error {
			if status, body := get(t, in.admin+"/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "NATS") {
				return fmt.Errorf("without NATS, readyz says %d %s", status, body)
			}
			return nil
		})
		server.Restart()
	}
	senders.Wait()
	a := workers[0].settled("flow", events)
	t.Logf("%d kept, %d refused, account %+v", kept, refused, a)
	if kept == 0 {
		t.Error("nothing was kept in the outbox: the fault missed")
	}
	in.ready()
	workers[1].ready()
}

// TestRequestForEventsIsLost: a worker whose request nobody answers asks again, rather than
// waiting for ever.
func TestRequestForEventsIsLost(t *testing.T) {
	server := natstest.Start(t)
	in := start(t, server, "ingest", nil)
	in.ready()
	found := server.Swallow("$JS.API.CONSUMER.MSG.NEXT." + messaging.Stream + "." + messaging.Consumer)
	out := start(t, server, "worker", nil)
	// It knows the consumer, and nothing was heard of it.
	eventually(t, func() error {
		if status, body := get(t, out.admin+"/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "the consumer is not active yet") {
			return fmt.Errorf("without an answer, readyz says %d %s", status, body)
		}
		return nil
	})
	found()
	in.post("silence", 1, 20)
	out.settled("silence", 20)
	out.ready()
	// The same with a worker that has long been active: the next of its requests.
	found = server.Swallow("$JS.API.CONSUMER.MSG.NEXT." + messaging.Stream + "." + messaging.Consumer)
	found()
	in.post("silence", 21, 40)
	out.settled("silence", 40)
	out.ready()
}

// TestKeptEventsSurviveTheProcess: what was answered with 202 is sent by the next process
// on the same disk.
func TestKeptEventsSurviveTheProcess(t *testing.T) {
	server := natstest.Start(t)
	box := t.TempDir()
	in := start(t, server, "ingest", func(c *config) { c.outboxDir = box })
	out := start(t, server, "worker", nil)
	in.ready()
	out.ready()
	server.Kill()
	eventually(t, func() error {
		if status, _ := get(t, in.admin+"/readyz"); status == http.StatusOK {
			return errors.New("ready without NATS")
		}
		return nil
	})
	if status, a := in.post("kept", 1, 20); status != http.StatusAccepted || a.Results[7].Status != "kept" || a.Results[7].Error == "" {
		t.Fatalf("without NATS: %d %+v, want 202", status, a)
	}
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
	in = start(t, server, "ingest", func(c *config) { c.outboxDir = box })
	server.Restart()
	in.ready()
	out.settled("kept", 20)
}

// parts are a ledger, a store and a consumer without the processes around them.
func parts(t *testing.T, server *natstest.Server) (messaging.Topology, *ledger.Ledger) {
	t.Helper()
	keeper, err := credential.New(credential.Options{File: server.CredsFile})
	if err != nil {
		t.Fatal(err)
	}
	connection, err := messaging.Connect(messaging.Options{URL: server.URL(), Credential: keeper, Log: telemetry.NewLogger(t.Output(), 0)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connection.Close)
	js, err := jetstream.New(connection)
	if err != nil {
		t.Fatal(err)
	}
	topology := messaging.Topology{JS: js, Replicas: 1}
	eventually(t, func() error { return topology.Ensure(t.Context()) })
	return topology, ledger.New(js, messaging.LedgerBucket, 2*time.Second)
}

func publish(t *testing.T, topology messaging.Topology, book *ledger.Ledger, producer string, n uint64) {
	t.Helper()
	m := event.Event{Producer: producer, Sequence: n, Created: time.Now()}.Message()
	if _, err := topology.JS.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if _, _, err := book.Intake(t.Context(), producer, ranges.Of(n), ranges.Of(n)); err != nil {
		t.Fatal(err)
	}
}

// crashing is a store whose caller dies right after the write, once.
type crashing struct {
	store.Store
	crash func()
	once  sync.Once
}

func (s *crashing) Put(ctx context.Context, e event.Event) (bool, error) {
	created, err := s.Store.Put(ctx, e)
	if err == nil && e.Sequence == 5 {
		crashed := false
		s.once.Do(func() { crashed = true; s.crash() })
		if crashed {
			return false, errors.New("the process is gone")
		}
	}
	return created, err
}

// TestWorkerDiesBetweenWriteAndAcknowledgement: the effect is there, nobody was told. The
// next worker gets the event again and makes no second effect.
func TestWorkerDiesBetweenWriteAndAcknowledgement(t *testing.T) {
	server := natstest.Start(t)
	topology, book := parts(t, server)
	for n := uint64(1); n <= 10; n++ {
		publish(t, topology, book, "crash", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := &crashing{Store: store.NewKeyValue(topology.JS, messaging.EventBucket), crash: cancel}
	run := func(ctx, last context.Context) {
		w, err := worker.New(worker.Options{JS: topology.JS, Store: s, Ledger: book, Log: telemetry.NewLogger(t.Output(), 0)})
		if err != nil {
			t.Error(err)
			return
		}
		w.Run(ctx, last)
	}
	run(ctx, ctx) // ends with the crash: neither ledger nor acknowledgement
	if a, err := book.Account(t.Context(), "crash"); err != nil || a.Delivered == 10 {
		t.Fatalf("account after the crash: %+v %v; want events missing", a, err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { run(ctx, t.Context()); close(ended) }()
	eventually(t, func() error {
		a, err := book.Account(t.Context(), "crash")
		if err != nil || a.Delivered != 10 || a.Lost != 0 {
			return fmt.Errorf("account %+v %v", a, err)
		}
		if a.Duplicates == 0 {
			t.Errorf("account %+v: the second delivery is not counted", a)
		}
		return nil
	})
	cancel()
	<-ended
	stream, err := topology.JS.Stream(t.Context(), "KV_"+messaging.EventBucket)
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.LastSeq; n != 10 {
		t.Errorf("%d writes of 10 events", n)
	}
}

// TestLost: an event that is acknowledged and then gone is called lost after the deadline,
// by its name, by every process, also by one that has just started.
func TestLost(t *testing.T) {
	server := natstest.Start(t)
	topology, book := parts(t, server)
	for n := uint64(1); n <= 5; n++ {
		publish(t, topology, book, "gap", n)
	}
	// Acknowledged, says the ledger, but the stream never had it.
	if _, _, err := book.Intake(t.Context(), "gap", ranges.Of(6), ranges.Of(6)); err != nil {
		t.Fatal(err)
	}
	out := start(t, server, "worker", nil)
	var a ledger.Account
	eventually(t, func() (err error) {
		if a, err = out.account("gap"); err == nil && a.Lost == 0 {
			err = fmt.Errorf("account %+v", a)
		}
		return err
	})
	if a.Lost != 1 || a.Delivered != 5 || len(a.Missing) != 1 || a.Missing[0] != "gap.6" || a.Pending != 0 {
		t.Errorf("account %+v, want gap.6 lost", a)
	}
	fresh := start(t, server, "worker", nil)
	eventually(t, func() error {
		if _, body := get(t, fresh.admin+"/metrics"); !strings.Contains(body, "\npulse_lost 1\n") {
			return fmt.Errorf("metrics of a fresh worker:\n%s", grep(body, "pulse_lost"))
		}
		return nil
	})
	if status, body := out.closeAccount("gap"); status != http.StatusConflict {
		t.Errorf("an account with a loss was closed: %d %s", status, body)
	}
	// It turns up after all.
	publish(t, topology, book, "gap", 6)
	fresh.settled("gap", 6)
}

func grep(text, word string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// slow is a store that takes its time.
type slow struct {
	store.Store
	delay time.Duration
}

func (s slow) Put(ctx context.Context, e event.Event) (bool, error) {
	time.Sleep(s.delay)
	return s.Store.Put(ctx, e)
}

// TestSlowConsumer: a backlog is pending, not lost, while the deadline is not over, and a
// worker that is told to stop hands back what it has not looked at.
func TestSlowConsumer(t *testing.T) {
	server := natstest.Start(t)
	topology, _ := parts(t, server)
	book := ledger.New(topology.JS, messaging.LedgerBucket, time.Minute)
	const events = 600
	for n := uint64(1); n <= events; n++ {
		publish(t, topology, book, "slow", n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	run := func(ctx context.Context, s store.Store) chan struct{} {
		w, err := worker.New(worker.Options{JS: topology.JS, Store: s, Ledger: book, Log: telemetry.NewLogger(t.Output(), 0)})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { w.Run(ctx, t.Context()); close(ended) }()
		return ended
	}
	kv := store.NewKeyValue(topology.JS, messaging.EventBucket)
	ended := run(ctx, slow{kv, 100 * time.Millisecond})
	eventually(t, func() error {
		a, err := book.Account(t.Context(), "slow")
		if err != nil || a.Delivered == 0 {
			return fmt.Errorf("account %+v %v", a, err)
		}
		if a.Lost != 0 || a.Pending == 0 {
			t.Errorf("account %+v: want pending events and none lost", a)
		}
		return nil
	})
	cancel()
	<-ended
	a, err := book.Account(t.Context(), "slow")
	if err != nil || a.Delivered >= events {
		t.Fatalf("the slow worker was done already: %+v %v", a, err)
	}
	// Far sooner than the 30 s after which the server takes back what nobody answered for.
	started := time.Now()
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	ended = run(ctx, kv)
	eventually(t, func() error {
		if a, err = book.Account(t.Context(), "slow"); err != nil || a.Delivered != events {
			return fmt.Errorf("account %+v %v", a, err)
		}
		return nil
	})
	if took := time.Since(started); took > 15*time.Second {
		t.Errorf("the rest took %s: it was not handed back", took)
	}
	cancel()
	<-ended
}

// TestShutdownInFlight: a request that was accepted before the end is answered, the
// listener is open until the delay is over, and readiness is not.
func TestShutdownInFlight(t *testing.T) {
	server := natstest.Start(t)
	in := start(t, server, "ingest", func(c *config) { c.delay = 700 * time.Millisecond })
	out := start(t, server, "worker", nil)
	in.ready()
	out.ready()
	ended := make(chan error, 1)
	go func() { ended <- in.stop() }()
	eventually(t, func() error {
		if status, body := get(t, in.admin+"/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "stopping") {
			return fmt.Errorf("readyz says %d %s", status, body)
		}
		return nil
	})
	n := 0
	for {
		n++
		response, err := http.Post(in.listen+"/v1/events", "application/json", strings.NewReader(fmt.Sprintf(`{"events":[{"producer":"last","sequence":%d}]}`, n)))
		if err != nil { // refused: no listener any more, so nothing was promised
			n--
			break
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("event %d while stopping: %s", n, response.Status)
		}
	}
	if err := <-ended; err != nil {
		t.Errorf("stop: %v", err)
	}
	if n == 0 {
		t.Error("nothing was taken while stopping")
	}
	out.settled("last", uint64(n))
}
