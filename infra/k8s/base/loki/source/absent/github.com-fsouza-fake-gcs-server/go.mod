module github.com/fsouza/fake-gcs-server

go 1.24.0
