// Package store is where workers write events: their effect.
package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/orrery-dev/orrery/apps/pulse/internal/event"
)

// Store of events. FoundationDB and ScyllaDB have no implementation yet: their images
// cannot be built from Go modules, see docs/reference/pulse.md. Either can keep this
// contract: a transaction that reads the key before it writes it, or a lightweight
// transaction (IF NOT EXISTS).
type Store interface {
	// Put writes an event and says whether it is new. Of any number of calls with the
	// same event, at the same time, repeated after an error or after a crash, exactly one
	// that succeeds says so, unless a call that said so got lost on its way back.
	Put(ctx context.Context, e event.Event) (created bool, err error)
}

// KeyValue is a store in a JetStream key-value bucket. What it knows is as old as the
// bucket lets keys be.
type KeyValue struct {
	js     jetstream.JetStream
	bucket string

	mu sync.Mutex
	kv jetstream.KeyValue
}

// NewKeyValue uses a bucket, which may come into being later.
func NewKeyValue(js jetstream.JetStream, bucket string) *KeyValue {
	return &KeyValue{js: js, bucket: bucket}
}

// Put implements Store. The key is the event's ID.
func (s *KeyValue) Put(ctx context.Context, e event.Event) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	kv, err := s.open(ctx)
	if err != nil {
		return false, err
	}
	_, err = kv.Create(ctx, e.ID(), e.Data)
	if errors.Is(err, jetstream.ErrKeyExists) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("write event %s to bucket %s: %w", e.ID(), s.bucket, err)
	}
	return true, nil
}

func (s *KeyValue) open(ctx context.Context) (jetstream.KeyValue, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kv == nil {
		kv, err := s.js.KeyValue(ctx, s.bucket)
		if err != nil {
			return nil, fmt.Errorf("open bucket %s: %w", s.bucket, err)
		}
		s.kv = kv
	}
	return s.kv, nil
}
