package telemetry

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protowire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// exporter takes spans when it is let.
type exporter struct {
	let   chan struct{}
	fail  atomic.Bool
	taken atomic.Int64
}

func (e *exporter) ExportSpans(_ context.Context, spans []trace.ReadOnlySpan) error {
	<-e.let
	if e.fail.Load() {
		return errors.New("nobody there")
	}
	e.taken.Add(int64(len(spans)))
	return nil
}
func (*exporter) Shutdown(context.Context) error { return nil }

// TestQueue: a gateway that hangs delays nobody; what does not fit is dropped; every span
// is counted as what became of it.
func TestQueue(t *testing.T) {
	reader := metric.NewManualReader()
	meters := metric.NewMeterProvider(metric.WithReader(reader))
	otel.SetMeterProvider(meters)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
	e := &exporter{let: make(chan struct{})}
	q, err := newQueue(e, 10)
	if err != nil {
		t.Fatal(err)
	}
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(q))
	tracer := provider.Tracer("test")
	const spans = batchSize + 500
	started := time.Now()
	for range spans {
		_, span := tracer.Start(t.Context(), "x")
		span.End()
	}
	if took := time.Since(started); took > batchDelay {
		t.Errorf("%d spans took %s while the gateway hung", spans, took)
	}
	e.fail.Store(true)
	e.let <- struct{}{} // whatever was taken first is refused
	e.fail.Store(false)
	close(e.let)
	if err := provider.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int64{}
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	for _, p := range data.ScopeMetrics[0].Metrics[0].Data.(metricdata.Sum[int64]).DataPoints {
		outcome, _ := p.Attributes.Value("outcome")
		counts[outcome.AsString()] = p.Value
	}
	if counts["exported"] != e.taken.Load() || counts["dropped"] == 0 || counts["exported"]+counts["failed"]+counts["dropped"] != spans {
		t.Errorf("%v of %d spans, %d taken", counts, spans, e.taken.Load())
	}
	if err := provider.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestPartialSuccess(t *testing.T) {
	var inner, response []byte
	inner = protowire.AppendVarint(protowire.AppendTag(inner, 1, protowire.VarintType), 7)
	inner = protowire.AppendString(protowire.AppendTag(inner, 2, protowire.BytesType), "too old")
	response = protowire.AppendBytes(protowire.AppendTag(response, 1, protowire.BytesType), inner)
	if n, why := partialSuccess(response); n != 7 || why != "too old" {
		t.Errorf("%d %q", n, why)
	}
	if n, _ := partialSuccess(nil); n != 0 {
		t.Errorf("%d rejected by an empty answer", n)
	}
}

func FuzzPartialSuccess(f *testing.F) {
	f.Add([]byte{0x0a, 2, 8, 1})
	f.Fuzz(func(_ *testing.T, b []byte) { partialSuccess(b) })
}

func TestEndpoints(t *testing.T) {
	for _, bad := range []string{"gateway:4317", "http://", "ftp://x:1", "://"} {
		if _, err := newUploader(bad, time.Second); err == nil || !strings.Contains(err.Error(), "must be http://HOST:PORT") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
