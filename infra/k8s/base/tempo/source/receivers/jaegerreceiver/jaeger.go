// Package jaegerreceiver stands in for the collector's jaeger receiver, which this build of Tempo
// leaves out: it can be named in a configuration, and then refuses to start.
package jaegerreceiver

import (
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/receiver"
)

// Config is as much of it as Tempo looks at.
type Config struct {
	Protocols `mapstructure:"protocols"`
}

// Protocols of the receiver.
type Protocols struct {
	ThriftHTTP *confighttp.ServerConfig `mapstructure:"thrift_http"`
}

// NewFactory makes no receiver of any signal.
func NewFactory() receiver.Factory {
	return receiver.NewFactory(component.MustNewType("jaeger"), func() component.Config { return &Config{} })
}
