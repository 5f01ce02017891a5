package split

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensionmiddleware"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/otel/metric"
)

// Config of the extension, which has nothing to set. An exporter names it in its list of middlewares.
type Config struct{}

// NewFactory makes extensions of the type "split".
func NewFactory() extension.Factory {
	return extension.NewFactory(component.MustNewType("split"),
		func() component.Config { return &Config{} },
		func(_ context.Context, s extension.Settings, _ component.Config) (extension.Extension, error) {
			meter := s.MeterProvider.Meter("github.com/orrery-dev/orrery/otel-collector/split")
			refused, err := meter.Int64Counter("otelcol_split_refused_metric_points",
				metric.WithDescription("Metric points that were refused alone, while others of their request were taken"), metric.WithUnit("{point}"))
			if err != nil {
				return nil, fmt.Errorf("count what is refused: %w", err)
			}
			return middleware{refused}, nil
		}, component.StabilityLevelStable)
}

type middleware struct{ refused metric.Int64Counter }

var _ extensionmiddleware.HTTPClient = middleware{}

// Start implements component.Component.
func (middleware) Start(context.Context, component.Host) error { return nil }

// Shutdown implements component.Component.
func (middleware) Shutdown(context.Context) error { return nil }

// GetHTTPRoundTripper implements extensionmiddleware.HTTPClient.
func (m middleware) GetHTTPRoundTripper(context.Context) (extensionmiddleware.WrapHTTPRoundTripperFunc, error) {
	return func(_ context.Context, next http.RoundTripper) (http.RoundTripper, error) {
		return transport{next, m.refused}, nil
	}, nil
}

type transport struct {
	next    http.RoundTripper
	refused metric.Int64Counter
}

const (
	// most requests that one is split into. What is left then is refused as it is.
	most = 64
	// mostText of an answer that is passed on, in bytes.
	mostText = 4 << 10
	protobuf = "application/x-protobuf"
)

// RoundTrip sends a request, and when it is refused for good its parts.
func (t transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Body == nil || request.Header.Get("Content-Type") != protobuf || request.Header.Get("Content-Encoding") != "" {
		return t.next.RoundTrip(request)
	}
	body, err := io.ReadAll(request.Body)
	_ = request.Body.Close()
	if err != nil {
		return nil, err
	}
	response, err := t.next.RoundTrip(with(request, body))
	if err != nil || response.StatusCode != http.StatusBadRequest {
		return response, err
	}
	whole := pmetricotlp.NewExportRequest()
	if whole.UnmarshalProto(body) != nil || whole.Metrics().MetricCount() < 2 {
		return response, nil
	}
	s := &splitting{transport: t, request: request, left: most}
	first, second := halves(whole.Metrics())
	answer, err := s.send(first)
	if err == nil && answer == nil {
		answer, err = s.send(second)
	}
	if err != nil || answer != nil {
		_ = response.Body.Close()
		return answer, err // it is tried again as a whole: what was taken is taken twice as once
	}
	if s.taken == 0 {
		return response, nil
	}
	_ = response.Body.Close()
	t.refused.Add(request.Context(), s.refused)
	partial := pmetricotlp.NewExportResponse()
	partial.PartialSuccess().SetRejectedDataPoints(s.refused)
	partial.PartialSuccess().SetErrorMessage(s.why)
	text, err := partial.MarshalProto()
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: response.Proto, ProtoMajor: response.ProtoMajor, ProtoMinor: response.ProtoMinor,
		Header: http.Header{"Content-Type": {protobuf}}, Body: io.NopCloser(bytes.NewReader(text)), ContentLength: int64(len(text)),
		Request: request,
	}, nil
}

// splitting of one request.
type splitting struct {
	transport
	request        *http.Request
	left           int
	taken, refused int64 // points
	why            string
}

// send sends metrics, in parts where need be. It returns an answer that is neither success nor
// refusal.
func (s *splitting) send(metrics pmetric.Metrics) (*http.Response, error) {
	points := int64(metrics.DataPointCount())
	if s.left == 0 {
		s.refused += points
		return nil, nil
	}
	s.left--
	body, err := pmetricotlp.NewExportRequestFromMetrics(metrics).MarshalProto()
	if err != nil {
		return nil, err
	}
	response, err := s.next.RoundTrip(with(s.request, body))
	switch {
	case err != nil:
		return nil, err
	case response.StatusCode/100 == 2:
		s.taken += points
		_, err = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
		return nil, err
	case response.StatusCode != http.StatusBadRequest:
		return response, nil
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, mostText))
	_ = response.Body.Close()
	if err != nil {
		return nil, err
	}
	if metrics.MetricCount() < 2 {
		s.refused += points
		if s.why == "" {
			s.why = strings.TrimSpace(string(text))
		}
		return nil, nil
	}
	first, second := halves(metrics)
	if answer, err := s.send(first); err != nil || answer != nil {
		return answer, err
	}
	return s.send(second)
}

// halves are two copies of metrics, each without the other's half.
func halves(metrics pmetric.Metrics) (first, second pmetric.Metrics) {
	half := metrics.MetricCount() / 2
	return keep(metrics, func(i int) bool { return i < half }), keep(metrics, func(i int) bool { return i >= half })
}

// keep is a copy of metrics with those, by their place, that are wanted.
func keep(metrics pmetric.Metrics, wanted func(int) bool) pmetric.Metrics {
	kept := pmetric.NewMetrics()
	metrics.CopyTo(kept)
	i := 0
	kept.ResourceMetrics().RemoveIf(func(r pmetric.ResourceMetrics) bool {
		r.ScopeMetrics().RemoveIf(func(s pmetric.ScopeMetrics) bool {
			s.Metrics().RemoveIf(func(pmetric.Metric) bool {
				i++
				return !wanted(i - 1)
			})
			return s.Metrics().Len() == 0
		})
		return r.ScopeMetrics().Len() == 0
	})
	return kept
}

// with is a request with another body.
func with(request *http.Request, body []byte) *http.Request {
	r := request.Clone(request.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	return r
}
