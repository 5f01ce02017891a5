// Package flow reads what the network saw: which packets went where, and which were dropped
// and why. The words and the wire form are Hubble's
// (https://github.com/cilium/cilium/blob/v1.19.6/api/v1/flow/flow.proto).
//
// Hubble is executed, not linked: one `hubble observe` for each server that a driver names,
// whose answers are decoded and merged by time. So it must never import gRPC, nor anything
// of Cilium. It knows no driver and no cluster.
//
// Start reading at flow.go, then read.go.
package flow
