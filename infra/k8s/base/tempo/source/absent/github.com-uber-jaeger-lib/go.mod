module github.com/uber/jaeger-lib

go 1.24.0
