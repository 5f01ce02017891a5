module github.com/uber/jaeger-client-go

go 1.24.0
