module github.com/open-telemetry/opentelemetry-collector-contrib/pkg/translator/jaeger

go 1.24.0
