// Package alerts receives what Alertmanager sends (webhook, version 4) and shows it to
// whoever asks: the far end of the way that an alert takes, where verify looks for it.
//
// It keeps the last ones in memory. Each replica tells the others over NATS, so that it
// does not matter which one was sent to and which one is asked; what came in while NATS
// was away is known to one replica only.
package alerts

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// Subject on which replicas tell each other.
	Subject = "pulse.alerts"
	// Keep is how many alerts are remembered.
	Keep     = 256
	maxBody  = 1 << 20
	identity = "Pulse-Replica"
)

// Alert as Alertmanager describes it.
type Alert struct {
	// Received by pulse.
	Received    time.Time         `json:"received"`
	Receiver    string            `json:"receiver,omitempty"`
	Status      string            `json:"status"` // firing or resolved
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations,omitempty"`
	StartsAt    time.Time         `json:"startsAt,omitzero"`
	EndsAt      time.Time         `json:"endsAt,omitzero"`
	Fingerprint string            `json:"fingerprint,omitempty"`
}

// webhook is the body of Alertmanager's request.
type webhook struct {
	Version  string  `json:"version"`
	Receiver string  `json:"receiver"`
	Alerts   []Alert `json:"alerts"`
}

// Receiver of alerts. Safe for concurrent use.
type Receiver struct {
	log        *slog.Logger
	connection *nats.Conn
	replica    string

	mu     sync.Mutex
	alerts []Alert // the newest last
}

// New makes a receiver; connection may be nil, for one that is alone.
func New(connection *nats.Conn, log *slog.Logger) (*Receiver, error) {
	r := &Receiver{log: log, connection: connection, replica: rand.Text()}
	if connection == nil {
		return r, nil
	}
	_, err := connection.Subscribe(Subject, func(m *nats.Msg) {
		if m.Header.Get(identity) == r.replica {
			return
		}
		var alerts []Alert
		if err := json.Unmarshal(m.Data, &alerts); err != nil {
			log.Warn("alerts of another replica cannot be read", "error", err)
			return
		}
		r.keep(alerts)
	})
	if err != nil {
		return nil, fmt.Errorf("listen for alerts of other replicas: %w", err)
	}
	return r, nil
}

// Routes adds POST /alerts for Alertmanager and GET /alerts[?name=ALERTNAME&status=STATUS].
func (r *Receiver) Routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /alerts", r.receive)
	mux.HandleFunc("GET /alerts", r.list)
}

func (r *Receiver) receive(w http.ResponseWriter, request *http.Request) {
	alerts, err := decode(http.MaxBytesReader(w, request.Body, maxBody))
	if err != nil {
		// Alertmanager does not try again after a 4xx: the request would not get better.
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.keep(alerts)
	for _, a := range alerts {
		r.log.InfoContext(request.Context(), "alert", "name", a.Labels["alertname"], "status", a.Status, "labels", a.Labels)
	}
	r.tell(alerts)
	w.WriteHeader(http.StatusOK)
}

func decode(body io.Reader) ([]Alert, error) {
	var in webhook
	if err := json.NewDecoder(body).Decode(&in); err != nil {
		return nil, fmt.Errorf("not a webhook of Alertmanager: %w", err)
	}
	if in.Version != "4" {
		return nil, fmt.Errorf("version of the webhook is %q; must be \"4\"", in.Version)
	}
	if len(in.Alerts) == 0 {
		return nil, errors.New("the webhook has no alerts")
	}
	now := time.Now().UTC()
	for i := range in.Alerts {
		a := &in.Alerts[i]
		if a.Labels["alertname"] == "" {
			return nil, fmt.Errorf("alert %d has no label alertname", i)
		}
		a.Received, a.Receiver = now, in.Receiver
	}
	return in.Alerts, nil
}

func (r *Receiver) keep(alerts []Alert) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alerts = append(r.alerts, alerts...)
	if extra := len(r.alerts) - Keep; extra > 0 {
		r.alerts = append([]Alert(nil), r.alerts[extra:]...)
	}
}

func (r *Receiver) tell(alerts []Alert) {
	if r.connection == nil {
		return
	}
	m := nats.NewMsg(Subject)
	m.Header.Set(identity, r.replica)
	var err error
	if m.Data, err = json.Marshal(alerts); err == nil {
		err = r.connection.PublishMsg(m)
	}
	if err != nil {
		r.log.Warn("other replicas do not know of an alert", "error", err)
	}
}

func (r *Receiver) list(w http.ResponseWriter, request *http.Request) {
	name, status := request.URL.Query().Get("name"), request.URL.Query().Get("status")
	found := []Alert{}
	r.mu.Lock()
	for _, a := range r.alerts {
		if (name == "" || a.Labels["alertname"] == name) && (status == "" || a.Status == status) {
			found = append(found, a)
		}
	}
	r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"alerts": found}) // the client is gone when this fails
}
