module github.com/open-telemetry/opentelemetry-collector-contrib/receiver/opencensusreceiver

go 1.24.0
