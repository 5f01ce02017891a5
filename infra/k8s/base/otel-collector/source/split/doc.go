// Package split is an extension of the collector for an exporter of metrics whose server takes a
// request as a whole or not at all: Prometheus does so. One metric that it refuses, such as one
// with samples that are too old, would take along the good ones that a sender put beside it.
//
// A request that is refused for good is sent again in halves, and those likewise, until what is
// refused stands alone. The exporter is told how much that was, as OTLP does (partial success).
//
// Newcomers start at [NewFactory].
package split
