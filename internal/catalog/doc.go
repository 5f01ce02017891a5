// Package catalog reads the component folders (infra/k8s/base/*), the overlays and
// the node distribution (infra/native), checks them, and yields deployment waves.
//
// It is pure: it reads files and must never import os/exec, net, client-go, kube,
// image or driver code; a test holds it to that. Every mistake in a file is reported
// at once, with file, line, field path and what would be right.
//
// Start reading at types.go (what a component is), then load.go; check.go holds each file to
// the form, crosscheck.go all of them together.
package catalog
