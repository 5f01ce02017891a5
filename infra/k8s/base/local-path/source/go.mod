module github.com/orrery-dev/orrery/infra/k8s/base/local-path/source

go 1.26.6
