module go.opentelemetry.io/contrib/samplers/jaegerremote

go 1.24.0
