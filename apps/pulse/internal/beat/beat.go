// Package beat is a gentle, steady load through the front door: it posts an event to
// ingest, as any client would, and does not go on to the next before that one is settled.
// It is what the dashboards show when nobody else uses the platform, and what notices
// first when something does not work.
package beat

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Options of Run.
type Options struct {
	// Target is the base URL of ingest.
	Target string
	// Producer of the events: another one in each process, for the numbers begin at 1.
	Producer string
	// Rate in events a second.
	Rate float64
	Log  *slog.Logger
}

// Run beats until ctx ends. An event that was neither acknowledged nor kept is sent again
// under its number, however long that takes.
func Run(ctx context.Context, o Options) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// A connection an event: kept ones would all go to the replica that they met first.
	transport.DisableKeepAlives = true
	tracer := otel.Tracer("github.com/orrery-dev/orrery/apps/pulse/internal/beat")
	client := &http.Client{Transport: otelhttp.NewTransport(transport), Timeout: 10 * time.Second}
	tick := time.NewTicker(time.Duration(float64(time.Second) / o.Rate))
	defer tick.Stop()
	for sequence := uint64(1); ; sequence++ {
		for attempt := 0; ; attempt++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := o.beat(ctx, tracer, client, sequence)
			if err == nil {
				break
			}
			if ctx.Err() == nil && attempt < 3 { // then it is known
				o.Log.WarnContext(ctx, "an event did not get through; it is sent again", "sequence", sequence, "error", err)
			}
		}
	}
}

func (o Options) beat(ctx context.Context, tracer trace.Tracer, client *http.Client, sequence uint64) (err error) {
	ctx, span := tracer.Start(ctx, "beat", trace.WithNewRoot())
	defer func() {
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}()
	body, err := json.Marshal(map[string]any{"events": []any{map[string]any{
		"producer": o.Producer, "sequence": sequence, "data": map[string]any{"at": time.Now().UTC()},
	}}})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, o.Target+"/v1/events", bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	// 202: kept by ingest, which goes on with it.
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusAccepted {
		return fmt.Errorf("status %s: %.200s", response.Status, answer)
	}
	return nil
}
