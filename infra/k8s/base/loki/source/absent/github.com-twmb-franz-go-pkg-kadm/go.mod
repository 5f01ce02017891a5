module github.com/twmb/franz-go/pkg/kadm

go 1.24.0
