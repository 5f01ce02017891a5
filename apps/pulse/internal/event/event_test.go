package event

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func TestMessageAndBack(t *testing.T) {
	e := Event{Producer: "beat-7", Sequence: 42, Created: time.Unix(1, 234).UTC(), Data: []byte("x")}
	m := e.Message()
	if m.Subject != "pulse.events.beat-7" || m.Header.Get(nats.MsgIdHdr) != "beat-7.42" {
		t.Errorf("message %s %v", m.Subject, m.Header)
	}
	back, err := Parse(m.Subject, m.Header, m.Data)
	if err != nil || back.ID() != e.ID() || !back.Created.Equal(e.Created) || string(back.Data) != "x" {
		t.Errorf("%+v became %+v: %v", e, back, err)
	}
}

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		e   Event
		err string
	}{
		{Event{Producer: "a", Sequence: 1}, ""},
		{Event{Producer: "a.b", Sequence: 1}, "producer"},
		{Event{Producer: "", Sequence: 1}, "producer"},
		{Event{Producer: "*", Sequence: 1}, "producer"},
		{Event{Producer: strings.Repeat("a", 64), Sequence: 1}, "producer"},
		{Event{Producer: "a"}, "count the events of a producer from 1"},
		{Event{Producer: "a", Sequence: MaxSequence + 1}, "2^53"},
		{Event{Producer: "a", Sequence: 1, Data: make([]byte, MaxData+1)}, "at most"},
	} {
		err := test.e.Check()
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %v, want %q", test.e.ID(), err, test.err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("pulse.events.a", "a.1", "2026-01-02T03:04:05Z")
	f.Add("pulse.events.", ".0", "")
	f.Fuzz(func(t *testing.T, subject, id, created string) {
		e, err := Parse(subject, nats.Header{nats.MsgIdHdr: {id}, headerCreated: {created}}, nil)
		if err == nil && e.Check() != nil {
			t.Errorf("%q %q: parsed into what it would refuse", subject, id)
		}
	})
}
