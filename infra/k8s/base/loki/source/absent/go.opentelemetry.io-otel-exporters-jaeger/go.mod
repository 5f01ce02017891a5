module go.opentelemetry.io/otel/exporters/jaeger

go 1.24.0
