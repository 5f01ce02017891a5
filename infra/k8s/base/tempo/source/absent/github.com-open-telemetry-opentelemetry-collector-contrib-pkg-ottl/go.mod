module github.com/open-telemetry/opentelemetry-collector-contrib/pkg/ottl

go 1.24.0
