package final

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensionmiddleware"
)

// Config of the extension. An exporter names it in its list of middlewares.
type Config struct {
	// Says are texts; an answer 429 with one of them in its body is final.
	Says []string `mapstructure:"says"`
}

// Validate implements xconfmap.Validator.
func (c *Config) Validate() error {
	if len(c.Says) == 0 || slices.Contains(c.Says, "") {
		return errors.New("says must list what a final answer says")
	}
	return nil
}

// NewFactory makes extensions of the type "final".
func NewFactory() extension.Factory {
	return extension.NewFactory(component.MustNewType("final"),
		func() component.Config { return &Config{} },
		func(_ context.Context, _ extension.Settings, c component.Config) (extension.Extension, error) {
			return middleware{c.(*Config).Says}, nil
		}, component.StabilityLevelStable)
}

type middleware struct{ says []string }

var _ extensionmiddleware.HTTPClient = middleware{}

// Start implements component.Component.
func (middleware) Start(context.Context, component.Host) error { return nil }

// Shutdown implements component.Component.
func (middleware) Shutdown(context.Context) error { return nil }

// GetHTTPRoundTripper implements extensionmiddleware.HTTPClient.
func (m middleware) GetHTTPRoundTripper(context.Context) (extensionmiddleware.WrapHTTPRoundTripperFunc, error) {
	return func(_ context.Context, next http.RoundTripper) (http.RoundTripper, error) {
		return transport{m.says, next}, nil
	}, nil
}

type transport struct {
	says []string
	next http.RoundTripper
}

// most of an answer that is looked at, in bytes.
const most = 64 << 10

// RoundTrip turns an answer 429 that is final into 400, with the same body.
func (t transport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := t.next.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusTooManyRequests {
		return response, err
	}
	begin, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		_ = response.Body.Close()
		return nil, err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(begin), response.Body), response.Body}
	if slices.ContainsFunc(t.says, func(s string) bool { return bytes.Contains(begin, []byte(s)) }) {
		response.StatusCode, response.Status = http.StatusBadRequest, "400 Bad Request"
		response.Header.Del("Retry-After")
	}
	return response, nil
}
