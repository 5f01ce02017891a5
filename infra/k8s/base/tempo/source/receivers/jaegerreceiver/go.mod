module github.com/open-telemetry/opentelemetry-collector-contrib/receiver/jaegerreceiver

go 1.24.0
