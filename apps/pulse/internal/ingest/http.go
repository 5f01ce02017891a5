package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"github.com/orrery-dev/orrery/apps/pulse/internal/event"
	"github.com/orrery-dev/orrery/apps/pulse/pulsepb"
)

// maxBody bounds a request, in bytes.
const maxBody = 4 << 20

// Procedure is the path of the gRPC call.
const Procedure = "/pulse.v1.Ingest/Send"

// request is the body of POST /v1/events.
type request struct {
	Events []requested `json:"events"`
}

type requested struct {
	Producer string          `json:"producer"`
	Sequence uint64          `json:"sequence"`
	Data     json.RawMessage `json:"data"`
}

// Routes adds POST /v1/events and the gRPC service.
func (i *Ingest) Routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/events", i.serveHTTP)
	mux.Handle("POST "+Procedure, connect.NewUnaryHandler(Procedure, i.serveRPC, connect.WithReadMaxBytes(maxBody)))
}

// accept checks events from outside and numbers those without a producer.
func (i *Ingest) accept(events []event.Event) error {
	if len(events) == 0 || len(events) > MaxEvents {
		return fmt.Errorf("the request has %d events; send 1 to %d", len(events), MaxEvents)
	}
	now := time.Now()
	for n := range events {
		e := &events[n]
		if e.Producer == "" && e.Sequence != 0 {
			return fmt.Errorf("event %d: has a sequence and no producer; give both or neither", n)
		}
		check := *e
		if check.Producer == "" {
			check.Producer, check.Sequence = i.Producer, 1
		}
		if err := check.Check(); err != nil {
			return fmt.Errorf("event %d: %w", n, err)
		}
	}
	for n := range events { // once nothing can be refused, so that no number is left out
		events[n].Created = now
		i.Number(&events[n])
	}
	return nil
}

func (i *Ingest) serveHTTP(w http.ResponseWriter, r *http.Request) {
	events, status, err := decode(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		if err = i.accept(events); err != nil {
			status = http.StatusBadRequest
		}
	}
	if err != nil {
		answer(w, status, map[string]string{"error": err.Error()})
		return
	}
	results := i.Send(r.Context(), events)
	status = http.StatusOK
	for _, result := range results {
		switch result.Status {
		case Refused:
			status = http.StatusServiceUnavailable
			w.Header().Set("Retry-After", "1")
		case Kept:
			status = max(status, http.StatusAccepted)
		}
	}
	answer(w, status, map[string]any{"results": results})
}

func decode(body io.Reader) ([]event.Event, int, error) {
	data, err := io.ReadAll(body)
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("the request has more than %d bytes; send fewer events at a time", maxBody)
	} else if err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("read the request: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var in request
	if err := decoder.Decode(&in); err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf(`the request is not {"events": [{"producer": TEXT, "sequence": NUMBER, "data": ANY}]}: %w`, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, http.StatusBadRequest, errors.New("the request goes on after its JSON document")
	}
	events := make([]event.Event, len(in.Events))
	for n, e := range in.Events {
		events[n] = event.Event{Producer: e.Producer, Sequence: e.Sequence, Data: e.Data}
	}
	return events, 0, nil
}

func (i *Ingest) serveRPC(ctx context.Context, r *connect.Request[pulsepb.SendRequest]) (*connect.Response[pulsepb.SendResponse], error) {
	events := make([]event.Event, len(r.Msg.Events))
	for n, e := range r.Msg.Events {
		events[n] = event.Event{Producer: e.Producer, Sequence: e.Sequence, Data: e.Data}
	}
	if err := i.accept(events); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	out := &pulsepb.SendResponse{}
	for _, result := range i.Send(ctx, events) {
		status := map[Status]pulsepb.Result_Status{
			Acknowledged: pulsepb.Result_ACKNOWLEDGED, Kept: pulsepb.Result_KEPT, Refused: pulsepb.Result_REFUSED,
		}[result.Status]
		out.Results = append(out.Results, &pulsepb.Result{Id: result.ID, Status: status, Duplicate: result.Duplicate, Error: result.Error})
	}
	return connect.NewResponse(out), nil
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone when this fails
}
