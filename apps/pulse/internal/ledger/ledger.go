package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/orrery-dev/orrery/apps/pulse/internal/ranges"
)

// MaxIntervals is in how many pieces the numbers of one producer may be. One that counts
// does not come near it; one that draws random numbers would fill the bucket.
const MaxIntervals = 4096

// ErrSparse is returned for a producer whose numbers have too many gaps.
var ErrSparse = errors.New("the producer's numbers have too many gaps; count from 1, without leaving out any, or use another producer name")

// ErrOpen is returned for an account that cannot be closed yet.
var ErrOpen = errors.New("the account is open")

// ErrNotFound is returned for a producer that nothing is known of.
var ErrNotFound = errors.New("nothing is known of this producer")

const (
	attempt   = 2 * time.Second // bounds one call of the bucket
	maxCached = 1000            // records held in memory
)

// Ledger is safe for concurrent use.
type Ledger struct {
	js       jetstream.JetStream
	bucket   string
	deadline time.Duration
	now      func() time.Time

	mu    sync.Mutex
	kv    jetstream.KeyValue
	cache map[string]cached
}

// cached is a record as it was last seen; a stale one costs a conflict, no more.
type cached struct {
	value    []byte
	revision uint64
}

// New makes a ledger on a bucket, which may come into being later. What is acknowledged
// and not delivered within the deadline counts as lost.
func New(js jetstream.JetStream, bucket string, deadline time.Duration) *Ledger {
	return &Ledger{js: js, bucket: bucket, deadline: deadline, now: time.Now, cache: map[string]cached{}}
}

// Deadline of the ledger.
func (l *Ledger) Deadline() time.Duration { return l.deadline }

func intakeKey(producer string) string   { return "in." + producer }
func deliveryKey(producer string) string { return "out." + producer }

// Intake records that numbers of a producer were sent and acknowledged, and returns how
// many of them are new. It returns once that is on a majority of the servers.
func (l *Ledger) Intake(ctx context.Context, producer string, sent, acked ranges.Set) (newSent, newAcked uint64, err error) {
	err = change(ctx, l, intakeKey(producer), func(r Intake) (Intake, bool, error) {
		joined := r.join(sent, acked, l.now(), l.deadline)
		if joined.Sent.Intervals() > MaxIntervals {
			return r, false, ErrSparse
		}
		newSent, newAcked = joined.Sent.Len()-r.Sent.Len(), joined.Acked.Len()-r.Acked.Len()
		return joined, newSent+newAcked > 0, nil
	})
	return newSent, newAcked, err
}

// Sparse returns ErrSparse when the numbers of a producer, with this one, have too many
// gaps. It asks nobody but the cache, so it is cheap and may be late.
func (l *Ledger) Sparse(ctx context.Context, producer string, n uint64) error {
	if c, ok := l.recall(intakeKey(producer)); !ok || len(c.value) < MaxIntervals*len("[1,3],") {
		return nil
	}
	r, _, err := read[Intake](ctx, l, intakeKey(producer), true)
	if err != nil || r.Sent.Intervals() < MaxIntervals {
		return nil
	}
	r.Sent.Add(n)
	if r.Sent.Intervals() > MaxIntervals {
		return ErrSparse
	}
	return nil
}

// Deliver records deliveries of a producer and returns how many numbers are new.
func (l *Ledger) Deliver(ctx context.Context, producer string, d Delivery) (fresh uint64, err error) {
	err = change(ctx, l, deliveryKey(producer), func(r Delivery) (Delivery, bool, error) {
		joined := r.join(d, l.now())
		if joined.Delivered.Intervals() > 2*MaxIntervals { // room for what is still on its way
			return r, false, ErrSparse
		}
		fresh = joined.Delivered.Len() - r.Delivered.Len()
		return joined, fresh > 0 || d.Duplicates > 0, nil
	})
	return fresh, err
}

// Delivered is what was delivered of a producer, as far as this process knows: possibly
// less than is true, never more.
func (l *Ledger) Delivered(ctx context.Context, producer string) (ranges.Set, error) {
	r, _, err := read[Delivery](ctx, l, deliveryKey(producer), true)
	return r.Delivered, err
}

// Account of a producer, as the leader of the bucket knows it. ErrNotFound when there is none.
func (l *Ledger) Account(ctx context.Context, producer string) (Account, error) {
	out, outRevision, err := read[Delivery](ctx, l, deliveryKey(producer), false)
	if err != nil {
		return Account{}, err
	}
	// Read second: what was delivered above is sure to be acknowledged here.
	in, inRevision, err := read[Intake](ctx, l, intakeKey(producer), false)
	if err != nil {
		return Account{}, err
	}
	if inRevision == 0 && outRevision == 0 {
		return Account{}, fmt.Errorf("%s: %w", producer, ErrNotFound)
	}
	return settle(producer, in, out, l.now(), l.deadline), nil
}

// Accounts of all producers, by name, and since when there is an account: a later time
// than before means that the bucket was lost and what it knew with it.
func (l *Ledger) Accounts(ctx context.Context) (accounts []Account, since time.Time, err error) {
	producers, since, err := l.producers(ctx)
	if err != nil {
		return nil, since, err
	}
	accounts = make([]Account, len(producers))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i, producer := range producers {
		group.Go(func() (err error) {
			accounts[i], err = l.Account(groupCtx, producer)
			if errors.Is(err, ErrNotFound) { // closed, or too old just now
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, since, err
	}
	return slices.DeleteFunc(accounts, func(a Account) bool { return a.Producer == "" }), since, nil
}

// Close forgets a producer of which everything that was sent is delivered, and returns
// its last account. Any other keeps its account, and ErrOpen is returned.
func (l *Ledger) Close(ctx context.Context, producer string) (Account, error) {
	a, err := l.Account(ctx, producer)
	if err != nil {
		return a, err
	}
	if a.Delivered != a.Sent {
		return a, fmt.Errorf("%s: %w: %d of %d events are delivered", producer, ErrOpen, a.Delivered, a.Sent)
	}
	kv, err := l.open(ctx)
	if err != nil {
		return a, err
	}
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	for _, key := range []string{intakeKey(producer), deliveryKey(producer)} {
		c, _ := l.recall(key) // as Account has just read it
		if err := kv.Purge(ctx, key, jetstream.LastRevision(c.revision)); err != nil {
			return a, fmt.Errorf("remove %s from the ledger: %w", key, err)
		}
		l.remember(key, cached{})
	}
	return a, nil
}

func (l *Ledger) producers(ctx context.Context) ([]string, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	prefix := "$KV." + l.bucket + "."
	stream, err := l.js.Stream(ctx, "KV_"+l.bucket)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the ledger: %w", err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(prefix+">"))
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read the ledger: %w", err)
	}
	var producers []string
	for subject := range info.State.Subjects {
		if _, producer, ok := strings.Cut(strings.TrimPrefix(subject, prefix), "."); ok {
			producers = append(producers, producer)
		}
	}
	slices.Sort(producers)
	return slices.Compact(producers), info.Created, nil
}

// change applies f to a record until nobody else changed it meanwhile. f returns false
// when there is nothing to write.
func change[R any](ctx context.Context, l *Ledger, key string, f func(R) (R, bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 5*attempt)
	defer cancel()
	useCache := true
	for {
		record, revision, err := read[R](ctx, l, key, useCache)
		if err != nil {
			return err
		}
		record, changed, err := f(record)
		if err != nil {
			return err
		}
		if !changed && useCache {
			useCache = false // nothing new, says a cache: ask who knows
			continue
		}
		if !changed {
			return nil
		}
		value, err := json.Marshal(record)
		if err != nil {
			return err
		}
		switch err := l.put(ctx, key, value, revision); {
		case errors.Is(err, jetstream.ErrKeyExists), errors.Is(err, jetstream.ErrKeyRevisionMismatch):
			useCache = false // another replica was faster; it may also have been ourselves, with an answer that got lost
		case err != nil:
			return fmt.Errorf("write %s to the ledger: %w", key, err)
		default:
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("write %s to the ledger: %w", key, context.Cause(ctx))
		}
	}
}

func (l *Ledger) put(ctx context.Context, key string, value []byte, revision uint64) error {
	kv, err := l.open(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	var next uint64
	if revision == 0 {
		next, err = kv.Create(ctx, key, value)
	} else {
		next, err = kv.Update(ctx, key, value, revision)
	}
	if err != nil {
		return err
	}
	l.remember(key, cached{value, next})
	return nil
}

// read returns the zero record and revision 0 when there is none.
func read[R any](ctx context.Context, l *Ledger, key string, useCache bool) (record R, revision uint64, err error) {
	c, ok := l.recall(key)
	if !ok || !useCache {
		if c, err = l.get(ctx, key); err != nil {
			return record, 0, fmt.Errorf("read %s from the ledger: %w", key, err)
		}
	}
	if c.revision == 0 {
		return record, 0, nil
	}
	if err := json.Unmarshal(c.value, &record); err != nil {
		return record, 0, fmt.Errorf("record %s of the ledger: %w", key, err)
	}
	return record, c.revision, nil
}

func (l *Ledger) get(ctx context.Context, key string) (cached, error) {
	kv, err := l.open(ctx)
	if err != nil {
		return cached{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	entry, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		l.remember(key, cached{})
		return cached{}, nil
	}
	if err != nil {
		return cached{}, err
	}
	c := cached{entry.Value(), entry.Revision()}
	l.remember(key, c)
	return c, nil
}

func (l *Ledger) recall(key string) (cached, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.cache[key]
	return c, ok && c.revision > 0
}

func (l *Ledger) remember(key string, c cached) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.cache) >= maxCached {
		clear(l.cache) // it is but a cache
	}
	l.cache[key] = c
}

func (l *Ledger) open(ctx context.Context) (jetstream.KeyValue, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kv != nil {
		return l.kv, nil
	}
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	kv, err := l.js.KeyValue(ctx, l.bucket)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", l.bucket, err)
	}
	l.kv = kv
	return kv, nil
}
