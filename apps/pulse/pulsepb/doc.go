// Package pulsepb is the gRPC API of pulse ingest, generated from pulse.proto.
//
// The generated code is committed. To make it anew: protoc 3.21 and
// protoc-gen-go v1.36.12 on the PATH, then `go generate ./pulsepb`.
package pulsepb

//go:generate protoc --go_out=. --go_opt=paths=source_relative pulse.proto
