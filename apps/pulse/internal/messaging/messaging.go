// Package messaging is pulse's side of NATS: the connection, and the stream, buckets and
// consumer that pulse needs there, which it makes when they are missing.
//
// Newcomers start at [Connect] and [Topology].
package messaging

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/orrery-dev/orrery/apps/pulse/internal/credential"
	"github.com/orrery-dev/orrery/apps/pulse/internal/event"
)

// Names in JetStream. The permissions of pulse's user name them too: see
// infra/k8s/base/nats.
const (
	Stream       = "pulse"
	Consumer     = "worker"
	EventBucket  = "pulse-events"
	LedgerBucket = "pulse-ledger"
	// InboxPrefix keeps the answers to pulse apart from those to other users.
	InboxPrefix = "_INBOX_pulse"
)

// AckWait is how long a delivery may take before another worker gets the event.
const AckWait = 30 * time.Second

// Options of a connection.
type Options struct {
	// URL of the servers; several are divided by commas.
	URL string
	// Name that the servers show for this client.
	Name string
	// Credential signs in; nil: nobody has to.
	Credential *credential.Keeper
	// CAFile holds the certificates to trust; empty: no TLS.
	CAFile string
	Log    *slog.Logger
}

// Connect to NATS. It does not wait: a connection that is not there yet, or is lost, is
// made in the background, for ever. What is published meanwhile fails at once instead of
// waiting in memory.
func Connect(o Options) (*nats.Conn, error) {
	connected := func(c *nats.Conn) { o.Log.Info("connected to NATS", "server", c.ConnectedServerName()) }
	options := []nats.Option{
		nats.Name(o.Name),
		nats.CustomInboxPrefix(InboxPrefix),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 250*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.Timeout(2 * time.Second),
		// A server that went without a word is noticed after 10 s.
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.DrainTimeout(5 * time.Second),
		nats.DisconnectErrHandler(func(c *nats.Conn, err error) {
			if !c.IsClosed() && err != nil {
				o.Log.Warn("disconnected from NATS", "error", err)
			}
		}),
		nats.ConnectHandler(connected),
		nats.ReconnectHandler(connected),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			o.Log.Warn("NATS reports an error", "error", err)
			refused := errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked)
			if refused && o.Credential != nil {
				o.Credential.Refused()
			}
		}),
	}
	if o.Credential != nil {
		// One that has ended is refused until there is another: that is no reason to give up.
		options = append(options, o.Credential.Option(), nats.IgnoreAuthErrorAbort())
	}
	if o.CAFile != "" {
		options = append(options, nats.RootCAs(o.CAFile))
	}
	connection, err := nats.Connect(o.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", o.URL, err)
	}
	if o.Credential != nil {
		o.Credential.Changed(func() {
			if err := connection.ForceReconnect(); err != nil && !connection.IsClosed() {
				o.Log.Warn("the next sign-in to NATS has another credential, this one not", "error", err)
			}
		})
	}
	return connection, nil
}

// Topology is what pulse needs in JetStream.
type Topology struct {
	JS jetstream.JetStream
	// Replicas of each stream; 1 for a single server.
	Replicas int
}

const (
	// storeWindow is how long the store knows what was written. It only has to bridge the
	// time between a worker's write and its entry in the ledger, over a crash.
	storeWindow = time.Hour
	// ledgerWindow is how long a producer is remembered that nothing was heard of.
	ledgerWindow = 24 * time.Hour
)

// Streams are the configurations of the stream and of both buckets.
func (t Topology) Streams() []jetstream.StreamConfig {
	bucket := func(name, description string, window time.Duration, maxBytes int64, discard jetstream.DiscardPolicy) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name:              "KV_" + name,
			Description:       description,
			Subjects:          []string{"$KV." + name + ".>"},
			Storage:           jetstream.FileStorage,
			Replicas:          t.Replicas,
			MaxMsgsPerSubject: 1,
			MaxAge:            window,
			MaxBytes:          maxBytes,
			Discard:           discard,
			Duplicates:        2 * time.Minute,
			AllowRollup:       true,
			DenyDelete:        true,
			// AllowDirect stays off: any replica could answer then, and one that is
			// behind would say less than is true.
		}
	}
	return []jetstream.StreamConfig{
		{
			Name:        Stream,
			Description: "events of apps/pulse",
			Subjects:    []string{event.SubjectPrefix + "*"},
			Storage:     jetstream.FileStorage,
			Replicas:    t.Replicas,
			// An event is kept until a worker has acknowledged it. A full stream
			// refuses new ones, and nothing is dropped in silence.
			Retention:  jetstream.WorkQueuePolicy,
			Discard:    jetstream.DiscardNew,
			MaxBytes:   128 << 20,
			MaxMsgSize: event.MaxData + 4<<10,
			Duplicates: 2 * time.Minute,
		},
		// The store forgets the oldest when it is full, the ledger refuses.
		bucket(EventBucket, "what the workers of apps/pulse wrote, by event", storeWindow, 128<<20, jetstream.DiscardOld),
		bucket(LedgerBucket, "what was sent, acknowledged and delivered, by producer", ledgerWindow, 16<<20, jetstream.DiscardNew),
	}
}

// Worker is the configuration of the workers' consumer.
func (t Topology) Worker() jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       Consumer,
		Description:   "the workers of apps/pulse, all of them",
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       AckWait,
		MaxDeliver:    -1,
		MaxAckPending: 4096,
	}
}

// Ensure makes what is missing and leaves what is there, even where it differs: a
// change of replicas or sizes is an operator's decision.
func (t Topology) Ensure(ctx context.Context) error {
	for _, config := range t.Streams() {
		err := bounded(ctx, func(ctx context.Context) error {
			_, err := t.JS.Stream(ctx, config.Name)
			if errors.Is(err, jetstream.ErrStreamNotFound) {
				_, err = t.JS.CreateStream(ctx, config)
			}
			if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
				err = nil // another replica of ours was faster
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("stream %s with %d replicas: %w", config.Name, t.Replicas, err)
		}
	}
	return bounded(ctx, func(ctx context.Context) error {
		_, err := t.JS.Consumer(ctx, Stream, Consumer)
		if errors.Is(err, jetstream.ErrConsumerNotFound) {
			_, err = t.JS.CreateConsumer(ctx, Stream, t.Worker())
		}
		if err != nil && !errors.Is(err, jetstream.ErrConsumerExists) {
			return fmt.Errorf("consumer %s of stream %s: %w", Consumer, Stream, err)
		}
		return nil
	})
}

// Check says why pulse cannot work with JetStream now; nil when it can.
func (t Topology) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if c := t.JS.Conn(); !c.IsConnected() {
		return fmt.Errorf("not connected to NATS (%s)", c.Status())
	}
	for _, config := range t.Streams() {
		stream, err := t.JS.Stream(ctx, config.Name)
		if err != nil {
			return fmt.Errorf("stream %s: %w", config.Name, err)
		}
		if cluster := stream.CachedInfo().Cluster; config.Replicas > 1 && (cluster == nil || cluster.Leader == "") {
			return fmt.Errorf("stream %s has no leader", config.Name)
		}
	}
	return nil
}

func bounded(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return f(ctx)
}

// Keep ensures what is needed, and again when it goes missing, until ctx ends. It calls
// ensured the first time that all of it is there.
func (t Topology) Keep(ctx context.Context, log *slog.Logger, ensured func()) {
	const often, seldom = time.Second, 30 * time.Second
	timer := time.NewTimer(0)
	defer timer.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		wait := seldom
		if !t.JS.Conn().IsConnected() {
			wait = often
		} else if err := t.Ensure(ctx); err != nil && ctx.Err() == nil {
			wait = often
			if err.Error() != said {
				said = err.Error()
				log.Warn("JetStream does not have what is needed yet, trying again", "error", err)
			}
		} else {
			said = ""
			if ensured != nil {
				ensured()
				ensured = nil
			}
		}
		timer.Reset(wait)
	}
}
