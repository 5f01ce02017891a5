package smoke

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/internal/check"
)

// streamPrefix begins the name of every stream that a check makes.
const streamPrefix = "orrery-smoke-"

// exercise is what a message platform has to stand. To a stream on files and to one in
// memory, both replicated, messages are published in order while a consumer reads, a window of
// them before the first is acknowledged; in the middle the leader of the stream steps down.
// Then: every acknowledged message is there, once, in order, in the stream and for the
// consumer.
type exercise struct {
	messages int
	replicas int
	// tamper, for tests, is called before the window that begins with message n (from 1) is published.
	tamper func(ctx context.Context, js jetstream.JetStream, stream string, n int) error
}

const (
	// attempt bounds one call of the API: who answers does so much sooner.
	attempt = 2 * time.Second
	// publishAttempt bounds one publish. What was under way when a leader changed gets no
	// answer at all; one that is just slow is repeated without harm.
	publishAttempt = 500 * time.Millisecond
	// window is how many messages are published before the first of them is acknowledged. Through a
	// port-forward one by one is a wait of two machines' schedulers each time.
	window = 20
	// catchUp is how long a new leader may refuse what follows on messages that the one before acknowledged
	// and it has not applied yet, as it does (NATS 2.15): "wrong last sequence".
	catchUp = 10 * time.Second
	// patience is how long anything may take: several elections of a starved machine.
	patience = time.Minute
)

// outcome of one stream.
type outcome struct {
	name          string
	retries       int
	before, after string // leaders
}

// run does the exercise and takes its streams away, also when ctx has ended.
func (e exercise) run(ctx context.Context, target natsTarget) (string, error) {
	var mu sync.Mutex
	var lastErr error
	options := slices.Concat(target.options, target.auth, []nats.Option{
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			mu.Lock()
			defer mu.Unlock()
			lastErr = err
		}),
	})
	connection, err := connect(ctx, target.url, options)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	js, err := jetstream.New(connection, jetstream.WithPublishAsyncTimeout(publishAttempt))
	if err != nil {
		return "", err
	}
	sweepStreams(ctx, js)

	id := token(4)
	storages := []jetstream.StorageType{jetstream.FileStorage, jetstream.MemoryStorage}
	outcomes := make([]outcome, len(storages))
	group, groupCtx := errgroup.WithContext(ctx)
	for i, storage := range storages {
		group.Go(func() (err error) {
			outcomes[i], err = e.stream(groupCtx, connection, js, id, storage)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		mu.Lock()
		defer mu.Unlock()
		if lastErr != nil {
			err = fmt.Errorf("%w (the client last reported: %w)", err, lastErr)
		}
		return "", err
	}
	var parts []string
	retries := 0
	for _, o := range outcomes {
		part := fmt.Sprintf("%s R%d", o.name, e.replicas)
		if o.before != o.after {
			part += fmt.Sprintf(", leader %s → %s", o.before, o.after)
		}
		parts = append(parts, part)
		retries += o.retries
	}
	message := fmt.Sprintf("%d acknowledged messages each, all there once and in order (%s)", e.messages, strings.Join(parts, "; "))
	if e.replicas == 1 {
		message += "; one server, so no leader could step down"
	}
	if retries > 0 {
		message += fmt.Sprintf("; %d publishes were repeated", retries)
	}
	if n := connection.Stats().Reconnects; n > 0 {
		message += fmt.Sprintf("; %d reconnects", n)
	}
	return message, nil
}

// connect waits for a server that answers: after a start the first connection may come before
// any of them.
func connect(ctx context.Context, url string, options []nats.Option) (connection *nats.Conn, err error) {
	err = until(ctx, patience, func() error {
		if connection, err = nats.Connect(url, options...); err == nil {
			return nil
		}
		err = fmt.Errorf("connect to NATS: %w", err)
		var untrusted *tls.CertificateVerificationError
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrSecureConnRequired) || errors.As(err, &untrusted) {
			return check.Final(err)
		}
		return err
	})
	return connection, err
}

// stream does the exercise on one stream.
func (e exercise) stream(ctx context.Context, connection *nats.Conn, js jetstream.JetStream, id string, storage jetstream.StorageType) (o outcome, err error) {
	kind := strings.ToLower(storage.String())
	o = outcome{name: kind}
	name := streamPrefix + id + "-" + kind
	subject := strings.ReplaceAll(name, "-", ".")
	fail := func(err error) (outcome, error) { return o, fmt.Errorf("%s stream: %w", kind, err) }

	defer func() { err = errors.Join(err, remove(context.WithoutCancel(ctx), js, name)) }()
	var stream jetstream.Stream
	stream, err = e.create(ctx, js, jetstream.StreamConfig{
		Name:        name,
		Description: "made by orrery verify; deleted at its end",
		Subjects:    []string{subject},
		Storage:     storage,
		Replicas:    e.replicas,
		Duplicates:  2 * time.Minute,
	})
	if err != nil {
		return fail(err)
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return e.consume(groupCtx, stream) })
	group.Go(func() error {
		var stepdown errgroup.Group
		for n := 1; n <= e.messages; n += window {
			if e.tamper != nil {
				if err := e.tamper(groupCtx, js, name, n); err != nil {
					return err
				}
			}
			last := min(n+window-1, e.messages)
			if half := e.messages / 2; n <= half && half <= last && e.replicas > 1 {
				// At the same time as the publishing, which must not notice.
				stepdown.Go(func() (err error) {
					o.before, o.after, err = stepDown(groupCtx, connection, stream)
					return err
				})
			}
			retries, err := publish(groupCtx, js, subject, id, n, last)
			o.retries += retries
			if err != nil {
				return errors.Join(err, stepdown.Wait())
			}
		}
		return stepdown.Wait()
	})
	if err := group.Wait(); err != nil {
		return fail(err)
	}
	if err := e.settled(ctx, stream); err != nil {
		return fail(err)
	}
	return o, nil
}

// remove deletes a stream, for which there may be nobody to ask for some seconds.
func remove(ctx context.Context, js jetstream.JetStream, name string) error {
	return until(ctx, cleanupTime, func() error {
		ctx, cancel := context.WithTimeout(ctx, attempt)
		defer cancel()
		if err := js.DeleteStream(ctx, name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("delete stream %s: %w", name, err)
		}
		return nil
	})
}

// create makes a stream. Right after a start there may be no leader to ask, or a server
// whose peers do not know it yet.
func (e exercise) create(ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig) (jetstream.Stream, error) {
	var stream jetstream.Stream
	err := until(ctx, patience, func() error {
		ctx, cancel := context.WithTimeout(ctx, 2*attempt)
		defer cancel()
		var err error
		stream, err = js.CreateStream(ctx, config)
		if err != nil { // a server that has just started lets an account in before it has its JetStream
			return fmt.Errorf("create with %d replicas: %w", config.Replicas, err)
		}
		return nil
	})
	return stream, err
}

func payload(n int) []byte { return fmt.Appendf(nil, "%d", n) }

// publish publishes messages first to last until all are acknowledged. Each says which number comes before
// it, so that none is stored where one before it got lost, and each is repeated under the same message ID,
// so that one whose acknowledgement got lost is not stored twice.
func publish(ctx context.Context, js jetstream.JetStream, subject, id string, first, last int) (retries int, err error) {
	var refused time.Time // since when
	err = until(ctx, patience, func() error {
		var sent []jetstream.PubAckFuture
		for n := first; n <= last; n++ {
			future, err := js.PublishAsync(subject, payload(n),
				jetstream.WithMsgID(fmt.Sprintf("%s-%d", id, n)), jetstream.WithExpectLastSequence(uint64(n-1)))
			if err != nil {
				return fmt.Errorf("publish message %d: %w", n, err)
			}
			sent = append(sent, future)
		}
		for _, future := range sent {
			err := acknowledged(ctx, future, first, retries > 0)
			if err == nil {
				first++
				refused = time.Time{}
				continue
			}
			retries += last - first + 1
			var api *jetstream.APIError
			switch {
			case !errors.As(err, &api) || api.ErrorCode != jetstream.JSErrCodeStreamWrongLastSequence:
			case refused.IsZero():
				refused = time.Now()
			case time.Since(refused) > catchUp:
				err = check.Final(fmt.Errorf("%w: acknowledged messages are gone, or there are some that were not sent", err))
			}
			return err
		}
		return nil
	})
	return retries, err
}

// acknowledged waits for what the stream says to message n.
func acknowledged(ctx context.Context, future jetstream.PubAckFuture, n int, repeated bool) error {
	var ack *jetstream.PubAck
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case err := <-future.Err():
		return fmt.Errorf("publish message %d: %w", n, err)
	case ack = <-future.Ok():
	}
	if ack.Sequence != uint64(n) {
		return check.Final(fmt.Errorf("message %d was acknowledged as number %d of the stream:"+
			" earlier acknowledged messages are gone or stored twice", n, ack.Sequence))
	}
	if ack.Duplicate && !repeated {
		return check.Final(fmt.Errorf("message %d was taken for a duplicate, and was sent once", n))
	}
	return nil
}

// consume reads until it has every message and fails on the first that is not the next.
func (e exercise) consume(ctx context.Context, stream jetstream.Stream) error {
	// An ordered consumer is made again by the client when its server or a message is
	// lost; what it hands out is compared with what was sent, one by one.
	var consumer jetstream.Consumer
	err := until(ctx, patience, func() (err error) {
		ctx, cancel := context.WithTimeout(ctx, 2*attempt)
		defer cancel()
		consumer, err = stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
			DeliverPolicy:     jetstream.DeliverAllPolicy,
			InactiveThreshold: time.Minute,
		})
		if err != nil {
			return fmt.Errorf("make a consumer: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// A pull that was lost with its leader is noticed after two heartbeats: with the
	// default of 5 s the check would wait longer for that than for all else.
	messages, err := consumer.Messages(jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(500*time.Millisecond))
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	defer messages.Stop()
	for next := 1; next <= e.messages; next++ {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("consume message %d: %w", next, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("consume message %d: %w", next, err)
		}
		if string(m.Data()) != string(payload(next)) || meta.Sequence.Stream != uint64(next) {
			return fmt.Errorf("consumed message %q with number %d of the stream, want message %d: lost,"+
				" doubled or out of order", m.Data(), meta.Sequence.Stream, next)
		}
	}
	return nil
}

// settled waits until all replicas have caught up, and compares what the stream says that
// it holds with what was published.
func (e exercise) settled(ctx context.Context, stream jetstream.Stream) error {
	return until(ctx, patience, func() error {
		ctx, cancel := context.WithTimeout(ctx, attempt)
		defer cancel()
		info, err := stream.Info(ctx)
		if err != nil {
			return fmt.Errorf("read its state: %w", err)
		}
		s := info.State
		want := uint64(e.messages)
		if s.Msgs != want || s.FirstSeq != 1 || s.LastSeq != want || s.NumDeleted != 0 {
			return check.Final(fmt.Errorf("it holds %d messages, numbers %d to %d, %d deleted; want %d, all", s.Msgs, s.FirstSeq, s.LastSeq, s.NumDeleted, want))
		}
		if e.replicas == 1 {
			return nil
		}
		if info.Cluster == nil || info.Cluster.Leader == "" {
			return errors.New("it has no leader")
		}
		current := 1
		for _, r := range info.Cluster.Replicas {
			if r.Current && !r.Offline {
				current++
			}
		}
		if current != e.replicas {
			return fmt.Errorf("%d of %d replicas are current", current, e.replicas)
		}
		return nil
	})
}

// stepDown has the leader of a stream hand over and waits for the next one.
func stepDown(ctx context.Context, connection *nats.Conn, stream jetstream.Stream) (before, after string, err error) {
	name := stream.CachedInfo().Config.Name
	// Who is asked may be just leaving.
	if err = until(ctx, patience, func() error { before, err = leader(ctx, stream); return err }); err != nil {
		return "", "", fmt.Errorf("find the leader: %w", err)
	}
	err = until(ctx, patience, func() error {
		// Asked again when the answer got lost or the old leader was elected once more.
		if after, err = leader(ctx, stream); err == nil && after != before {
			return nil
		}
		ctx, cancel := context.WithTimeout(ctx, attempt)
		defer cancel()
		reply, err := connection.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+name, nil)
		if err != nil {
			return fmt.Errorf("ask the leader to step down: %w", err)
		}
		var answer struct {
			Success bool                `json:"success"`
			Error   *jetstream.APIError `json:"error"`
		}
		if err := json.Unmarshal(reply.Data, &answer); err != nil {
			return check.Final(fmt.Errorf("ask the leader to step down: %w", err))
		}
		if answer.Error != nil {
			return fmt.Errorf("ask the leader to step down: %w", answer.Error)
		}
		// Elected in milliseconds, as a rule: the old leader names its successor.
		return until(ctx, attempt, func() error {
			if after, err = leader(ctx, stream); err != nil {
				return err
			}
			if after == before {
				return fmt.Errorf("%s still leads", before)
			}
			return nil
		})
	})
	return before, after, err
}

// leader of a stream; an error while there is none.
func leader(ctx context.Context, stream jetstream.Stream) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	info, err := stream.Info(ctx)
	if err != nil {
		return "", err
	}
	if info.Cluster == nil || info.Cluster.Leader == "" {
		return "", errors.New("the stream has no leader")
	}
	return info.Cluster.Leader, nil
}

// sweepStreams deletes streams of runs that were killed.
func sweepStreams(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	streams := js.ListStreams(ctx)
	for info := range streams.Info() {
		if strings.HasPrefix(info.Config.Name, streamPrefix) && time.Since(info.Created) > abandoned {
			_ = js.DeleteStream(ctx, info.Config.Name)
		}
	}
}
