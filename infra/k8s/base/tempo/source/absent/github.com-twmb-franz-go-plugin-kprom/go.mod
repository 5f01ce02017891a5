module github.com/twmb/franz-go/plugin/kprom

go 1.24.0
