module github.com/prometheus/alertmanager

go 1.24.0
