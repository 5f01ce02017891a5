// Package zipkinreceiver stands in for the collector's zipkin receiver, which this build of Tempo
// leaves out: it can be named in a configuration, and then refuses to start.
package zipkinreceiver

import (
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/receiver"
)

// Config is as much of it as Tempo looks at.
type Config struct {
	confighttp.ServerConfig `mapstructure:",squash"`
}

// NewFactory makes no receiver of any signal.
func NewFactory() receiver.Factory {
	return receiver.NewFactory(component.MustNewType("zipkin"), func() component.Config { return &Config{} })
}
