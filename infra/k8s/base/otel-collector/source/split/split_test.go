package split

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensionmiddleware"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
)

// names of metrics, in order.
func names(metrics pmetric.Metrics) (found []string) {
	for _, r := range metrics.ResourceMetrics().All() {
		for _, s := range r.ScopeMetrics().All() {
			for _, m := range s.Metrics().All() {
				found = append(found, m.Name())
			}
		}
	}
	return found
}

// request with a gauge of each name, two to a resource.
func request(t *testing.T, names ...string) []byte {
	t.Helper()
	metrics := pmetric.NewMetrics()
	var scope pmetric.ScopeMetrics
	for i, name := range names {
		if i%2 == 0 {
			scope = metrics.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty()
		}
		m := scope.Metrics().AppendEmpty()
		m.SetName(name)
		m.SetEmptyGauge().DataPoints().AppendEmpty().SetDoubleValue(1)
	}
	body, err := pmetricotlp.NewExportRequestFromMetrics(metrics).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestRoundTrip(t *testing.T) {
	many := make([]string, 300)
	for i := range many {
		many[i] = fmt.Sprintf("bad%d", i)
	}
	for _, c := range []struct {
		name    string
		metrics []string
		status  int
		taken   []string
		refused int64
	}{
		{"all good", []string{"a", "b", "c"}, 200, []string{"a", "b", "c"}, 0},
		{"one bad", []string{"a", "bad", "c"}, 200, []string{"a", "c"}, 1},
		{"a bad one and a good one", []string{"bad", "a"}, 200, []string{"a"}, 1},
		{"several bad", []string{"bad", "a", "b", "bad", "c", "bad", "d"}, 200, []string{"a", "b", "c", "d"}, 3},
		{"alone", []string{"bad"}, 400, nil, 0},
		{"all bad", []string{"bad", "bad"}, 400, nil, 0},
		{"away", []string{"a", "away"}, 503, nil, 0},
		{"away meanwhile", []string{"a", "bad", "b", "away-alone"}, 503, []string{"a"}, 0},
		{"many bad", append(slices.Clone(many), "a"), 400, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var taken []string
			requests := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests++
				body, _ := io.ReadAll(r.Body)
				in := pmetricotlp.NewExportRequest()
				if err := in.UnmarshalProto(body); err != nil {
					t.Error(err)
				}
				got := names(in.Metrics())
				switch {
				case slices.Contains(got, "away"), len(got) < 4 && slices.Contains(got, "away-alone"):
					w.WriteHeader(http.StatusServiceUnavailable)
				case slices.ContainsFunc(got, func(n string) bool { return strings.HasPrefix(n, "bad") }):
					w.WriteHeader(http.StatusBadRequest)
					_, _ = fmt.Fprintln(w, "out of bounds")
				default:
					taken = append(taken, got...)
				}
			}))
			defer server.Close()
			settings := extension.Settings{ID: component.NewID(NewFactory().Type()), TelemetrySettings: componenttest.NewNopTelemetrySettings()}
			made, err := NewFactory().Create(t.Context(), settings, &Config{})
			if err != nil {
				t.Fatal(err)
			}
			wrap, err := made.(extensionmiddleware.HTTPClient).GetHTTPRoundTripper(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			transport, err := wrap(t.Context(), http.DefaultTransport)
			if err != nil {
				t.Fatal(err)
			}
			response, err := (&http.Client{Transport: transport}).Post(server.URL, protobuf, bytes.NewReader(request(t, c.metrics...)))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, _ := io.ReadAll(response.Body)
			if response.StatusCode != c.status || !slices.Equal(taken, c.taken) {
				t.Errorf("status %d, taken %q; want %d, %q", response.StatusCode, taken, c.status, c.taken)
			}
			if requests > most+1 {
				t.Errorf("%d requests out of one", requests)
			}
			if c.status != 200 || c.refused == 0 {
				return
			}
			answer := pmetricotlp.NewExportResponse()
			if err := answer.UnmarshalProto(body); err != nil {
				t.Fatal(err)
			}
			if p := answer.PartialSuccess(); p.RejectedDataPoints() != c.refused || p.ErrorMessage() != "out of bounds" {
				t.Errorf("%d rejected, %q; want %d", p.RejectedDataPoints(), p.ErrorMessage(), c.refused)
			}
		})
	}
}
