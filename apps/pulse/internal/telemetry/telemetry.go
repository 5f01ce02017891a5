// Package telemetry sets up what a service tells of itself: traces to an OTLP gateway,
// metrics at /metrics for Prometheus to fetch, and logs on stdout, all three with the
// same trace IDs in them.
//
// None of it may hold the service up: spans wait in a bounded queue, and those that do
// not fit, or that nobody takes, are dropped and counted.
//
// Newcomers start at [Start].
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.40.0"
)

// Options of Start.
type Options struct {
	// Service, Version and Component name this process in traces.
	Service, Version, Component string
	// Endpoint of the OTLP gateway (gRPC), such as http://otel-gateway.observability:4317.
	// Empty: no traces are sent, but there are trace IDs all the same.
	Endpoint string
	// SampleRatio of the traces that begin here, from 0 to 1. Who calls with a trace
	// decides for it.
	SampleRatio float64
	Log         *slog.Logger
}

// Telemetry of a process.
type Telemetry struct {
	traces  *trace.TracerProvider
	meters  *metric.MeterProvider
	metrics http.Handler
}

// Start makes OpenTelemetry's global providers. Stop must be called at the end.
func Start(ctx context.Context, o Options) (*Telemetry, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo(), otelprometheus.WithoutTargetInfo())
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	// OTEL_RESOURCE_ATTRIBUTES adds pod, namespace and node: see the manifests.
	described, err := resource.New(ctx, resource.WithFromEnv(), resource.WithTelemetrySDK(), resource.WithAttributes(
		semconv.ServiceName(o.Service), semconv.ServiceVersion(o.Version),
		semconv.ServiceInstanceID(o.Component+"-"+hostname()), attribute.String(o.Service+".component", o.Component),
	))
	if err != nil {
		return nil, fmt.Errorf("describe the service: %w", err)
	}
	t := &Telemetry{
		meters:  metric.NewMeterProvider(metric.WithReader(reader), metric.WithResource(described), metric.WithCardinalityLimit(500), metric.WithView(views...)),
		metrics: promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true, Timeout: 5 * time.Second}),
	}
	otel.SetMeterProvider(t.meters)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))

	limiter := &errorLimiter{log: o.Log}
	otel.SetErrorHandler(limiter)
	options := []trace.TracerProviderOption{
		trace.WithResource(described),
		trace.WithSampler(trace.ParentBased(trace.TraceIDRatioBased(o.SampleRatio))),
	}
	if o.Endpoint != "" {
		upload, err := newUploader(o.Endpoint, 5*time.Second)
		if err != nil {
			return nil, err
		}
		exporter, err := otlptrace.New(ctx, upload)
		if err != nil {
			return nil, fmt.Errorf("traces: %w", err)
		}
		q, err := newQueue(exporter, queueSize)
		if err != nil {
			return nil, err
		}
		options = append(options, trace.WithSpanProcessor(q))
	}
	t.traces = trace.NewTracerProvider(options...)
	otel.SetTracerProvider(t.traces)
	return t, nil
}

// Metrics answers Prometheus, with exemplars for who asks for OpenMetrics.
func (t *Telemetry) Metrics() http.Handler { return t.metrics }

// Stop sends what is in the queue, until ctx ends.
func (t *Telemetry) Stop(ctx context.Context) error {
	return errors.Join(t.traces.Shutdown(ctx), t.meters.Shutdown(ctx))
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return strconv.Itoa(os.Getpid())
	}
	return name
}

// errorLimiter logs what goes wrong in telemetry, at most once a minute: a gateway that
// is away is no news every five seconds.
type errorLimiter struct {
	log    *slog.Logger
	mu     sync.Mutex
	last   time.Time
	hidden int
}

// Handle implements otel.ErrorHandler.
func (l *errorLimiter) Handle(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.last) < time.Minute {
		l.hidden++
		return
	}
	l.log.Warn("telemetry is incomplete; the service goes on", "error", err, "notShown", l.hidden)
	l.last, l.hidden = time.Now(), 0
}
