module github.com/open-telemetry/opentelemetry-collector-contrib/receiver/zipkinreceiver

go 1.24.0
