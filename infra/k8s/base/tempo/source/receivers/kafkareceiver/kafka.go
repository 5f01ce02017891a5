// Package kafkareceiver stands in for the collector's kafka receiver, which this build of Tempo
// leaves out: it can be named in a configuration, and then refuses to start.
package kafkareceiver

import (
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/receiver"
)

// Config is empty.
type Config struct{}

// NewFactory makes no receiver of any signal.
func NewFactory() receiver.Factory {
	return receiver.NewFactory(component.MustNewType("kafka"), func() component.Config { return &Config{} })
}
