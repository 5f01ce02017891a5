package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/kube"
)

// ledger is the witness of faults: it publishes to a replicated file stream without pause
// and remembers every message that was acknowledged. Those must never be missing.
type ledger struct {
	client *kube.Client
	id     string

	stop  context.CancelFunc
	ended chan struct{}

	mu    sync.Mutex
	acked []int // message numbers, ascending
	last  error // of the publisher
}

const ledgerStream = "E2E_LEDGER"

// openLedger makes the stream and starts to publish; it ends with the test.
func openLedger(t *testing.T, e *environment) *ledger {
	t.Helper()
	client, err := kube.Connect(e.state("kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	l := &ledger{client: client, id: e.name, ended: make(chan struct{})}
	eventually(t, "a stream for the ledger", restored, func(ctx context.Context) error {
		return l.withStream(ctx, turn, func(ctx context.Context, js jetstream.JetStream) error {
			_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
				Name: ledgerStream, Subjects: []string{"e2e.ledger"}, Storage: jetstream.FileStorage, Replicas: 3,
			})
			return err
		})
	})
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	go l.publish(ctx)
	t.Cleanup(func() { cancel(); <-l.ended })
	return l
}

// turn is how long one server is used, so that a long user meets all of them.
const turn = 20 * time.Second

// withStream connects to any NATS server that runs, through the API server, and calls f,
// which ends within limit.
func (l *ledger) withStream(ctx context.Context, limit time.Duration, f func(context.Context, jetstream.JetStream) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	secret, err := l.client.Get(ctx, "v1", "Secret", "messaging", "nats-app")
	if err != nil {
		return err
	}
	creds, err := secretValue(secret, "app.creds")
	if err != nil {
		return err
	}
	servers, err := l.client.Get(ctx, "v1", "Secret", "messaging", "nats-tls")
	if err != nil {
		return err
	}
	ca, err := secretValue(servers, "ca.crt")
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return errors.New("secret nats-tls has no authority in ca.crt")
	}
	secure := nats.Secure(&tls.Config{RootCAs: roots, ServerName: "nats.messaging.svc", MinVersion: tls.VersionTLS12})
	pods, err := l.client.List(ctx, "v1", "Pod", "messaging", "app.kubernetes.io/name=nats")
	if err != nil {
		return err
	}
	errs := []error{errors.New("no NATS server takes a connection")}
	for _, pod := range pods {
		if !podReady(pod) {
			continue
		}
		// A node that has just died keeps its pods Ready for a while, and connections to it
		// hang: the next one gets its turn soon.
		forward, cancel := context.WithCancel(ctx)
		defer cancel()
		tooLate := time.AfterFunc(5*time.Second, cancel)
		addr, stop, err := l.client.PortForward(forward, "messaging", pod.GetName(), 4222)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer stop()
		conn, err := nats.Connect("nats://"+addr, nats.NoReconnect(), nats.Timeout(3*time.Second), nats.UserCredentialBytes(creds), secure)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", pod.GetName(), err))
			continue
		}
		tooLate.Stop()
		defer conn.Close()
		js, err := jetstream.New(conn)
		if err != nil {
			return err
		}
		return f(ctx, js)
	}
	return errors.Join(errs...)
}

func secretValue(secret *unstructured.Unstructured, key string) ([]byte, error) {
	value, ok, err := unstructured.NestedString(secret.Object, "data", key)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", secret.GetName(), err)
	}
	if !ok {
		return nil, fmt.Errorf("secret %s has no %s", secret.GetName(), key)
	}
	return base64.StdEncoding.DecodeString(value)
}

func podReady(pod unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(pod.Object, "status", "conditions")
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["type"] == "Ready" {
			return m["status"] == "True" && pod.GetDeletionTimestamp() == nil
		}
	}
	return false
}

// publish goes on until ctx ends. A message that was not acknowledged is sent again
// under the same ID.
func (l *ledger) publish(ctx context.Context) {
	defer close(l.ended)
	next := 1
	for ctx.Err() == nil {
		err := l.withStream(ctx, turn, func(ctx context.Context, js jetstream.JetStream) error {
			for {
				once, cancel := context.WithTimeout(ctx, 3*time.Second)
				_, err := js.Publish(once, "e2e.ledger", l.body(next), jetstream.WithMsgID(l.msgID(next)), jetstream.WithRetryAttempts(0))
				cancel()
				if err != nil {
					return fmt.Errorf("publish %d: %w", next, err)
				}
				l.mu.Lock()
				l.acked, l.last = append(l.acked, next), nil
				l.mu.Unlock()
				next++
				select { // a steady witness, not a load test
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
		l.mu.Lock()
		l.last = err
		l.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond): // between attempts to connect
		}
	}
}

func (l *ledger) msgID(n int) string { return l.id + "-" + strconv.Itoa(n) }

// body can be recomputed from the number, so that the content can be checked.
func (l *ledger) body(n int) []byte {
	return fmt.Appendf(nil, "%d %x", n, sha256.Sum256([]byte(l.msgID(n))))
}

func (l *ledger) count() (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked), l.last
}

// more waits until n further messages are acknowledged.
func (l *ledger) more(t *testing.T, n int, timeout time.Duration) time.Duration {
	t.Helper()
	from, _ := l.count()
	return eventually(t, fmt.Sprintf("%d further messages acknowledged", n), timeout, func(context.Context) error {
		if now, err := l.count(); now < from+n {
			return errors.Join(fmt.Errorf("%d were", now-from), err)
		}
		return nil
	})
}

// check reads the stream from its beginning: every message acknowledged so far must be
// there, whole and in order.
func (l *ledger) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	acked := slices.Clone(l.acked)
	l.mu.Unlock()
	var stored []int
	eventually(t, "reading the ledger's stream", restored, func(ctx context.Context) error {
		stored = nil
		return l.withStream(ctx, time.Minute, func(ctx context.Context, js jetstream.JetStream) error {
			stream, err := js.Stream(ctx, ledgerStream)
			if err != nil {
				return err
			}
			info, err := stream.Info(ctx)
			if err != nil {
				return err
			}
			consumer, err := js.OrderedConsumer(ctx, ledgerStream, jetstream.OrderedConsumerConfig{})
			if err != nil {
				return err
			}
			messages, err := consumer.Messages()
			if err != nil {
				return err
			}
			defer messages.Stop()
			for at := uint64(0); at < info.State.LastSeq; {
				msg, err := messages.Next(jetstream.NextContext(ctx))
				if err != nil {
					return fmt.Errorf("after %d of %d: %w", at, info.State.LastSeq, err)
				}
				meta, err := msg.Metadata()
				if err != nil {
					return err
				}
				at = meta.Sequence.Stream
				number, _, _ := strings.Cut(string(msg.Data()), " ")
				n, err := strconv.Atoi(number)
				if err != nil || string(msg.Data()) != string(l.body(n)) {
					t.Errorf("message at %d is damaged: %q", at, msg.Data())
				}
				stored = append(stored, n)
			}
			return nil
		})
	})
	missing, twice := compare(acked, stored)
	if len(missing) > 0 {
		t.Errorf("%d of %d acknowledged messages are gone, such as %d", len(missing), len(acked), missing[0])
	}
	if len(twice) > 0 {
		t.Errorf("%d messages are there twice although they have IDs, such as %d", len(twice), twice[0])
	}
	if !slices.IsSorted(stored) {
		t.Error("messages are not in the order in which they were acknowledged")
	}
	t.Logf("ledger: %d acknowledged, %d stored, none missing: %v", len(acked), len(stored), len(missing) == 0)
}

// compare lists what of acked is not in stored, and what is stored more than once.
func compare(acked, stored []int) (missing, twice []int) {
	count := map[int]int{}
	for _, n := range stored {
		if count[n]++; count[n] == 2 {
			twice = append(twice, n)
		}
	}
	for _, n := range acked {
		if count[n] == 0 {
			missing = append(missing, n)
		}
	}
	return missing, twice
}

func TestLedgerNoticesLoss(t *testing.T) {
	missing, twice := compare([]int{1, 2, 3, 4}, []int{1, 3, 3, 4, 5})
	if !slices.Equal(missing, []int{2}) || !slices.Equal(twice, []int{3}) {
		t.Errorf("missing %v, twice %v; want [2] and [3]", missing, twice)
	}
}
