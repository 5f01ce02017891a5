module github.com/prometheus/common/sigv4

go 1.24.0
