package ledger

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// Book is what GET /v1/account answers.
type Book struct {
	// At is when the book was drawn up, Since when the ledger was begun: a later time
	// than before means that the ledger itself was lost.
	At    time.Time `json:"at"`
	Since time.Time `json:"since,omitzero"`
	// DeadlineSeconds after which what is missing is called lost.
	DeadlineSeconds float64   `json:"deadlineSeconds"`
	Totals          Sums      `json:"totals"`
	Producers       []Account `json:"producers"`
}

// Sums over all producers of a book.
type Sums struct {
	Sent           uint64 `json:"sent"`
	Acknowledged   uint64 `json:"acknowledged"`
	Delivered      uint64 `json:"delivered"`
	Duplicates     uint64 `json:"duplicates"`
	Pending        uint64 `json:"pending"`
	Unacknowledged uint64 `json:"unacknowledged"`
	Lost           uint64 `json:"lost"`
}

// Routes adds GET /v1/account[?producer=NAME], and DELETE /v1/account?producer=NAME for an
// account of which everything is delivered.
func (l *Ledger) Routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/account", func(w http.ResponseWriter, r *http.Request) {
		book := Book{At: l.now().UTC(), DeadlineSeconds: l.deadline.Seconds()}
		var err error
		if producer := r.URL.Query().Get("producer"); producer != "" {
			var a Account
			a, err = l.Account(r.Context(), producer)
			book.Producers = []Account{a}
		} else {
			book.Producers, book.Since, err = l.Accounts(r.Context())
		}
		book.sum()
		answer(w, book, err)
	})
	mux.HandleFunc("DELETE /v1/account", func(w http.ResponseWriter, r *http.Request) {
		a, err := l.Close(r.Context(), r.URL.Query().Get("producer"))
		answer(w, a, err)
	})
}

func (b *Book) sum() {
	for _, a := range b.Producers {
		t := &b.Totals
		t.Sent += a.Sent
		t.Acknowledged += a.Acknowledged
		t.Delivered += a.Delivered
		t.Duplicates += a.Duplicates
		t.Pending += a.Pending
		t.Unacknowledged += a.Unacknowledged
		t.Lost += a.Lost
	}
}

func answer(w http.ResponseWriter, body any, err error) {
	status := http.StatusOK
	switch {
	case errors.Is(err, ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, ErrOpen):
		status = http.StatusConflict
	case err != nil:
		status = http.StatusServiceUnavailable
	}
	if err != nil {
		body = map[string]string{"error": err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone when this fails
}
