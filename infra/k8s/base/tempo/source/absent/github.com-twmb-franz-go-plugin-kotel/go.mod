module github.com/twmb/franz-go/plugin/kotel

go 1.24.0
