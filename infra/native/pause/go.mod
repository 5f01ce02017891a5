module github.com/orrery-dev/orrery/infra/native/pause

go 1.26.0
