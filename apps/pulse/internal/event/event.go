// Package event is what passes through pulse: a numbered piece of data of a producer.
//
// The number is what makes losses visible. A producer counts its events from 1; whoever
// sees number 7 knows that there are six others. Producer and number are also the
// identity: an event that is sent again has the same, and counts once.
package event

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// SubjectPrefix begins the subject of every event; the producer follows.
	SubjectPrefix = "pulse.events."
	// MaxData bounds the data of one event, in bytes.
	MaxData = 64 << 10
	// MaxSequence is the greatest number: beyond it JSON loses digits.
	MaxSequence = 1 << 53

	headerCreated = "Pulse-Created" // RFC 3339 with nanoseconds
)

// producerForm has no dot, which divides the subjects and keys that it stands in.
var producerForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// Event of a producer.
type Event struct {
	Producer string
	// Sequence counts the producer's events, from 1.
	Sequence uint64
	// Created is when ingest took it in: where end-to-end latency begins.
	Created time.Time
	Data    []byte
}

// ID names the event, everywhere and for ever: PRODUCER.SEQUENCE.
func (e Event) ID() string { return e.Producer + "." + strconv.FormatUint(e.Sequence, 10) }

// Check says what is wrong with an event that came from outside.
func (e Event) Check() error {
	switch {
	case !producerForm.MatchString(e.Producer):
		return fmt.Errorf("producer %q: must be 1 to 63 letters, digits, \"_\" or \"-\", beginning with a letter or digit", e.Producer)
	case e.Sequence == 0 || e.Sequence > MaxSequence:
		return fmt.Errorf("sequence %d: must be from 1 to 2^53; count the events of a producer from 1", e.Sequence)
	case len(e.Data) > MaxData:
		return fmt.Errorf("data has %d bytes; at most %d are taken", len(e.Data), MaxData)
	}
	return nil
}

// Message is the event as it goes to JetStream. Its message ID has the server keep one
// copy of an event that is sent again.
func (e Event) Message() *nats.Msg {
	m := nats.NewMsg(SubjectPrefix + e.Producer)
	m.Header.Set(nats.MsgIdHdr, e.ID())
	m.Header.Set(headerCreated, e.Created.UTC().Format(time.RFC3339Nano))
	m.Data = e.Data
	return m
}

// Parse reads what Message wrote.
func Parse(subject string, header nats.Header, data []byte) (Event, error) {
	producer, ok := strings.CutPrefix(subject, SubjectPrefix)
	if !ok {
		return Event{}, fmt.Errorf("subject %q does not begin with %s", subject, SubjectPrefix)
	}
	id := header.Get(nats.MsgIdHdr)
	number, ok := strings.CutPrefix(id, producer+".")
	if !ok {
		return Event{}, fmt.Errorf("message ID %q is not one of producer %q", id, producer)
	}
	sequence, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return Event{}, fmt.Errorf("message ID %q: %w", id, errors.Unwrap(err))
	}
	created, err := time.Parse(time.RFC3339Nano, header.Get(headerCreated))
	if err != nil {
		return Event{}, fmt.Errorf("header %s: %w", headerCreated, err)
	}
	e := Event{Producer: producer, Sequence: sequence, Created: created, Data: data}
	return e, e.Check()
}
