package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	semconv "go.opentelemetry.io/otel/semconv/v1.40.0"
)

// durations are the bounds of the buckets of requests, in seconds.
var durations = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// views keep out what a stranger could fill the series of Prometheus with, such as the
// Host header, and what nobody looks at.
var views = []metric.View{
	metric.NewView(metric.Instrument{Name: "http.server.request.duration"}, metric.Stream{
		AttributeFilter: attribute.NewAllowKeysFilter(semconv.HTTPRequestMethodKey, semconv.HTTPRouteKey, semconv.HTTPResponseStatusCodeKey),
		Aggregation:     metric.AggregationExplicitBucketHistogram{Boundaries: durations},
		ExemplarReservoirProviderSelector: func(metric.Aggregation) exemplar.ReservoirProvider {
			return func(attribute.Set) exemplar.Reservoir {
				return bare{exemplar.NewHistogramReservoir(durations)}
			}
		},
	}),
	metric.NewView(metric.Instrument{Name: "http.server.*.body.size"}, metric.Stream{Aggregation: metric.AggregationDrop{}}),
	metric.NewView(metric.Instrument{Name: "http.client.*"}, metric.Stream{Aggregation: metric.AggregationDrop{}}),
}

// bare exemplars have the trace and nothing else. With the attributes that the view
// filters out they would have more than the 128 characters that OpenMetrics allows, and
// all exemplars of the series would be left out.
type bare struct{ *exemplar.HistogramReservoir }

// Offer implements exemplar.Reservoir.
func (b bare) Offer(ctx context.Context, t time.Time, v exemplar.Value, _ []attribute.KeyValue) {
	b.HistogramReservoir.Offer(ctx, t, v, nil)
}
