package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Totals of all producers.
type Totals struct {
	Lost    uint64
	Pending uint64
}

// Follower keeps a copy of the whole ledger, for what is asked often and may be a moment
// old.
type Follower struct {
	ledger *Ledger

	mu  sync.Mutex
	in  map[string]Intake
	out map[string]Delivery
}

// Follow makes a follower; it knows what Run has read.
func (l *Ledger) Follow() *Follower {
	return &Follower{ledger: l, in: map[string]Intake{}, out: map[string]Delivery{}}
}

// Run reads the ledger, and then what changes in it, until ctx ends or reading fails.
func (f *Follower) Run(ctx context.Context) error {
	prefix := "$KV." + f.ledger.bucket + "."
	consumer, err := f.ledger.js.OrderedConsumer(ctx, "KV_"+f.ledger.bucket, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{prefix + ">"},
		DeliverPolicy:  jetstream.DeliverLastPerSubjectPolicy,
	})
	if err != nil {
		return fmt.Errorf("follow the ledger: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("follow the ledger: %w", err)
	}
	defer messages.Stop()
	f.mu.Lock()
	clear(f.in)
	clear(f.out)
	f.mu.Unlock()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("follow the ledger: %w", err)
		}
		if err := f.take(strings.TrimPrefix(m.Subject(), prefix), m.Headers(), m.Data()); err != nil {
			return err
		}
	}
}

func (f *Follower) take(key string, header nats.Header, value []byte) error {
	side, producer, _ := strings.Cut(key, ".")
	f.mu.Lock()
	defer f.mu.Unlock()
	if header.Get("KV-Operation") != "" || header.Get("Nats-Marker-Reason") != "" { // deleted, or too old
		delete(f.in, producer)
		delete(f.out, producer)
		return nil
	}
	var in Intake
	var out Delivery
	var err error
	switch side {
	case "in":
		err = json.Unmarshal(value, &in)
		f.in[producer] = in
	case "out":
		err = json.Unmarshal(value, &out)
		f.out[producer] = out
	}
	if err != nil {
		return fmt.Errorf("record %s of the ledger: %w", key, err)
	}
	return nil
}

// Totals as of now.
func (f *Follower) Totals() (t Totals) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.ledger.now()
	for producer, in := range f.in {
		delivered := f.out[producer].Delivered
		lost := in.due(now, f.ledger.deadline).Minus(delivered)
		t.Lost += lost.Len()
		t.Pending += in.Acked.Minus(delivered).Minus(lost).Len()
	}
	return t
}
