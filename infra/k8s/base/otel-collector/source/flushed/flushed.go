package flushed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensionmiddleware"
)

// Config of the extension. An exporter names it in its list of middlewares.
type Config struct {
	// Probe is a URL that the server answers to GET, cheaply, with 200.
	Probe string `mapstructure:"probe"`
	// After which time the server has written what it acknowledged. The exporter's own
	// timeout has to be longer.
	After time.Duration `mapstructure:"after"`
}

// Validate implements xconfmap.Validator.
func (c *Config) Validate() error {
	if u, err := url.Parse(c.Probe); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("probe is %q: must be http://HOST:PORT/PATH or https://…", c.Probe)
	}
	if c.After <= 0 || c.After > time.Minute {
		return fmt.Errorf("after is %s: must be more than 0 and no more than a minute", c.After)
	}
	return nil
}

// NewFactory makes extensions of the type "flushed".
func NewFactory() extension.Factory {
	return extension.NewFactory(component.MustNewType("flushed"),
		func() component.Config { return &Config{} },
		func(_ context.Context, _ extension.Settings, c component.Config) (extension.Extension, error) {
			return newMiddleware(*c.(*Config)), nil
		}, component.StabilityLevelStable)
}

// middleware wraps the transports of exporters.
type middleware struct {
	config Config
	// probe has one connection: a server that answers on it twice is one process.
	probe *http.Transport
}

var _ extensionmiddleware.HTTPClient = (*middleware)(nil)

func newMiddleware(c Config) *middleware {
	return &middleware{config: c, probe: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		ResponseHeaderTimeout: 5 * time.Second,
		MaxConnsPerHost:       1,
		MaxIdleConnsPerHost:   1,
	}}
}

// Start implements component.Component.
func (*middleware) Start(context.Context, component.Host) error { return nil }

// Shutdown implements component.Component.
func (m *middleware) Shutdown(context.Context) error {
	m.probe.CloseIdleConnections()
	return nil
}

// GetHTTPRoundTripper implements extensionmiddleware.HTTPClient.
func (m *middleware) GetHTTPRoundTripper(context.Context) (extensionmiddleware.WrapHTTPRoundTripperFunc, error) {
	return func(_ context.Context, next http.RoundTripper) (http.RoundTripper, error) {
		return keeper{middleware: m, next: next}, nil
	}, nil
}

type keeper struct {
	*middleware
	next http.RoundTripper
}

var errAnother = errors.New("the server was restarted before it can have written what it acknowledged: it is sent again")

// RoundTrip sends a request and returns the answer. An acknowledgement is returned only
// after the configured time, and only when one process was there for all of it; anything
// else is an error, after which the exporter sends the same again.
func (k keeper) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx := request.Context()
	before, err := k.process(ctx)
	if err != nil {
		if request.Body != nil {
			_ = request.Body.Close() // as a RoundTripper has to
		}
		return nil, err
	}
	response, err := k.next.RoundTrip(request)
	if err != nil || response.StatusCode/100 != 2 {
		return response, err
	}
	if err := k.same(ctx, before); err != nil {
		_ = response.Body.Close()
		return nil, err
	}
	return response, nil
}

func (k keeper) same(ctx context.Context, before net.Conn) error {
	wait := time.NewTimer(k.config.After)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait until the server has written: %w", context.Cause(ctx))
	case <-wait.C:
	}
	after, err := k.process(ctx)
	if err != nil {
		return err
	}
	if after != before {
		return errAnother
	}
	return nil
}

// process asks the server for a sign of life, and names the process that gave it by the
// connection: no connection outlives the process at its other end.
func (m *middleware) process(ctx context.Context) (net.Conn, error) {
	var conn net.Conn
	// Of several connections that were tried, the last is the one that was answered on.
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { conn = i.Conn }})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, m.config.Probe, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := m.probe.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("ask the server whether it is there: %w", err)
	}
	defer response.Body.Close()
	// Read to its end, so that the connection is kept.
	if _, err := io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20)); err != nil {
		return nil, fmt.Errorf("ask the server whether it is there: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask the server whether it is there: %s", response.Status)
	}
	return conn, nil
}
