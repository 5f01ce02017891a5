module github.com/twmb/franz-go/pkg/kmsg

go 1.24.0
