// Package selfcheck is `pulse check`: what `orrery verify` runs in a Job to see that pulse works.
// It goes the ways of a client and of a probe, to every replica by itself, and prints one line
// of JSON for each check, as docs/reference/component.md says. Start at Run.
package selfcheck

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/apps/pulse/internal/ingest"
	"github.com/orrery-dev/orrery/apps/pulse/internal/ledger"
	"github.com/orrery-dev/orrery/apps/pulse/pulsepb"
)

const (
	// events are sent over HTTP, and as many over gRPC; of both, again have the same numbers.
	events = 100
	again  = 10
	// settle is what workers have to deliver them in; pulse calls what is not delivered after
	// 30 s lost.
	settle = 45 * time.Second
	// attempt bounds one request.
	attempt = 20 * time.Second
)

// Options of Run.
type Options struct {
	// Ingest and Worker are names that resolve to the address of each replica.
	Ingest, Worker string
	// Replicas of each.
	Replicas int
	// Port for clients, Admin for probes.
	Port, Admin int
	// Deadline of everything.
	Deadline time.Duration
	// Lookup finds the addresses of a name.
	Lookup func(ctx context.Context, name string) ([]string, error)
}

// line is what is printed of a check.
type line struct {
	Name    string  `json:"name"`
	State   string  `json:"state"`
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
}

// ErrFailed says that a check failed; its line says why.
var ErrFailed = errors.New("a check failed")

// Run prints the result of every check to out.
func Run(ctx context.Context, o Options, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, o.Deadline)
	defer cancel()
	failed := false
	for _, c := range []struct {
		name string
		run  func(Options, context.Context) (string, error)
	}{{"pulse-ready", Options.ready}, {"pulse-delivery", Options.delivery}} {
		start := time.Now()
		detail, err := c.run(o, ctx)
		l := line{Name: c.name, State: "succeeded", Detail: detail, Seconds: time.Since(start).Seconds()}
		if err != nil {
			l.State, l.Detail, failed = "failed", err.Error(), true
		}
		if err := json.NewEncoder(out).Encode(l); err != nil {
			return err
		}
	}
	if failed {
		return ErrFailed
	}
	return nil
}

// final marks an error that asking again will not cure.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// until calls f until it returns nil or a final error, or ctx ends.
func until(ctx context.Context, f func() error) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last error // that was not disturbed by the end of ctx
	for {
		err := f()
		if ctx.Err() == nil || last == nil {
			last = err
		}
		var stop final
		if err == nil || errors.As(err, &stop) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (waited until %w)", last, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// replicas are the addresses behind a name, as many as there should be.
func (o Options) replicas(ctx context.Context, name string) ([]string, error) {
	found, err := o.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	if len(found) != o.Replicas {
		return nil, fmt.Errorf("%d of %d replicas are behind %s", len(found), o.Replicas, name)
	}
	slices.Sort(found)
	return found, nil
}

// ready: every replica is there and says of itself that it can do its work.
func (o Options) ready(ctx context.Context) (string, error) {
	err := until(ctx, func() error {
		ingests, err := o.replicas(ctx, o.Ingest)
		if err != nil {
			return err
		}
		workers, err := o.replicas(ctx, o.Worker)
		if err != nil {
			return err
		}
		var group errgroup.Group
		for _, a := range slices.Concat(ingests, workers) {
			group.Go(func() error {
				status, body, err := do(ctx, http.MethodGet, o.url(a, o.Admin, "/readyz"), nil)
				if err == nil && status != http.StatusOK {
					err = fmt.Errorf("%s says: %s", a, strings.TrimSpace(string(body)))
				}
				return err
			})
		}
		return group.Wait()
	})
	return fmt.Sprintf("%d ingest and %d worker, each of which reaches NATS, its streams and its consumer", o.Replicas, o.Replicas), err
}

// delivery: events that only this run sends, over HTTP to one replica and over gRPC to
// another, some of them twice, are acknowledged, and each is delivered with one effect.
// Nothing that was ever acknowledged is lost.
func (o Options) delivery(ctx context.Context) (string, error) {
	var ingests, workers []string
	err := until(ctx, func() (err error) {
		if ingests, err = o.replicas(ctx, o.Ingest); err == nil {
			workers, err = o.replicas(ctx, o.Worker)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	producer := "smoke-" + strings.ToLower(rand.Text()[:12])
	// Sending an event again under its number is safe.
	first, second := o.url(ingests[0], o.Port, ""), o.url(ingests[len(ingests)-1], o.Port, "")
	if err := until(ctx, func() error { return sendHTTP(ctx, first, producer, 1, events) }); err != nil {
		return "", fmt.Errorf("send events to %s: %w", first, err)
	}
	if err := until(ctx, func() error { return sendGRPC(ctx, second, producer, events-again+1, 2*events) }); err != nil {
		return "", fmt.Errorf("send events to %s over gRPC: %w", second, err)
	}
	defer func() {
		// The account of a loss stays, for whoever looks into it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_, _, _ = do(ctx, http.MethodDelete, o.url(workers[0], o.Port, "/v1/account?producer="+producer), nil)
	}()
	var account ledger.Account
	settling, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	err = until(settling, func() error {
		for _, w := range workers { // each must say the same
			book, err := o.book(settling, w, "?producer="+producer)
			if err != nil {
				return err
			}
			if len(book.Producers) != 1 || book.Producers[0].Producer != producer {
				return final{fmt.Errorf("%s answers for %d producers when asked for one", w, len(book.Producers))}
			}
			account = book.Producers[0]
			if err := settled(account, 2*events); err != nil {
				return fmt.Errorf("%s says: %w", w, err)
			}
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("%d events of %s were acknowledged: %w", 2*events, producer, err)
	}
	var book ledger.Book
	if err := until(ctx, func() (err error) { book, err = o.book(ctx, workers[0], ""); return err }); err != nil {
		return "", err
	}
	if book.Totals.Lost > 0 {
		return "", lost(book)
	}
	detail := fmt.Sprintf("%d events over HTTP and gRPC, %d of them twice: all acknowledged, delivered with one effect; "+
		"of %d producers nothing is lost", 2*events, again, len(book.Producers))
	if account.Latency != nil {
		detail += fmt.Sprintf("; p95 %.0f ms", account.Latency.P95*1000)
	}
	if account.Duplicates > 0 {
		detail += fmt.Sprintf("; %d deliveries were repeated, without effect", account.Duplicates)
	}
	return detail, nil
}

// settled says what is missing in the account of a producer that sent n events.
func settled(a ledger.Account, n uint64) error {
	switch {
	case a.Lost > 0:
		return final{fmt.Errorf("%d are lost, acknowledged but not delivered: %s", a.Lost, strings.Join(a.Missing, ", "))}
	case a.Delivered > n || a.Sent > n:
		return final{fmt.Errorf("%d were sent and %d delivered, but there are only %d: events were counted twice",
			a.Sent, a.Delivered, n)}
	case a.Skipped > 0:
		return final{fmt.Errorf("%d numbers were never seen, though their senders were told that they are acknowledged", a.Skipped)}
	case a.Acknowledged != n || a.Unacknowledged > 0 || a.Delivered != n || len(a.Missing) > 0:
		return fmt.Errorf("%d of %d are acknowledged and %d delivered", a.Acknowledged, n, a.Delivered)
	}
	return nil
}

func lost(book ledger.Book) error {
	var parts []string
	for _, a := range book.Producers {
		if a.Lost > 0 {
			parts = append(parts, fmt.Sprintf("%s (%d: %s)", a.Producer, a.Lost, strings.Join(a.Missing, ", ")))
		}
	}
	return fmt.Errorf("%d events that NATS acknowledged were not delivered in time, of the producers %s; "+
		"ask GET /v1/account of pulse, see docs/reference/pulse.md", book.Totals.Lost, strings.Join(parts, ", "))
}

func (o Options) url(address string, port int, path string) string {
	return "http://" + net.JoinHostPort(address, strconv.Itoa(port)) + path
}

func (o Options) book(ctx context.Context, address, query string) (book ledger.Book, err error) {
	status, body, err := do(ctx, http.MethodGet, o.url(address, o.Port, "/v1/account"+query), nil)
	if err != nil {
		return book, err
	}
	if status != http.StatusOK {
		return book, fmt.Errorf("account of %s: status %d: %.300s", address, status, body)
	}
	if err := json.Unmarshal(body, &book); err != nil {
		return book, fmt.Errorf("account of %s: %w", address, err)
	}
	return book, nil
}

type sent struct {
	Producer string `json:"producer"`
	Sequence uint64 `json:"sequence"`
	Data     string `json:"data"`
}

// sendHTTP sends the events from first to last and fails unless all are acknowledged.
func sendHTTP(ctx context.Context, target, producer string, first, last uint64) error {
	var all []sent
	for n := first; n <= last; n++ {
		all = append(all, sent{producer, n, "orrery verify"})
	}
	body, err := json.Marshal(map[string]any{"events": all})
	if err != nil {
		return err
	}
	status, answer, err := do(ctx, http.MethodPost, target+"/v1/events", body)
	if err != nil {
		return err
	}
	// 202 is less: kept by ingest, not acknowledged by NATS.
	if status != http.StatusOK {
		return fmt.Errorf("status %d: %.300s", status, answer)
	}
	var results struct{ Results []struct{ ID, Status string } }
	if err := json.Unmarshal(answer, &results); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if len(results.Results) != len(all) {
		return fmt.Errorf("%d results for %d events", len(results.Results), len(all))
	}
	for i, r := range results.Results {
		if want := fmt.Sprintf("%s.%d", producer, all[i].Sequence); r.ID != want || r.Status != "acknowledged" {
			return fmt.Errorf("result %d is for event %s, %q; want %s acknowledged", i, r.ID, r.Status, want)
		}
	}
	return nil
}

// sendGRPC does the same over gRPC.
func sendGRPC(ctx context.Context, target, producer string, first, last uint64) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	client := connect.NewClient[pulsepb.SendRequest, pulsepb.SendResponse](
		&http.Client{Transport: transport}, target+ingest.Procedure, connect.WithGRPC())
	request := &pulsepb.SendRequest{}
	for n := first; n <= last; n++ {
		request.Events = append(request.Events, &pulsepb.Event{Producer: producer, Sequence: n, Data: []byte("orrery verify")})
	}
	response, err := client.CallUnary(ctx, connect.NewRequest(request))
	if err != nil {
		return err
	}
	acknowledged := 0
	for _, r := range response.Msg.Results {
		if r.Status == pulsepb.Result_ACKNOWLEDGED {
			acknowledged++
		}
	}
	if acknowledged != len(request.Events) {
		return fmt.Errorf("%d of %d events are acknowledged", acknowledged, len(request.Events))
	}
	return nil
}

// do makes one request on a connection of its own.
func do(ctx context.Context, method, target string, body []byte) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	if answer, err = io.ReadAll(io.LimitReader(response.Body, 16<<20)); err != nil {
		return 0, nil, fmt.Errorf("read the answer of %s: %w", target, err)
	}
	return response.StatusCode, answer, nil
}
