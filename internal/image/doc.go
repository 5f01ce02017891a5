// Package image makes binaries and OCI images out of pinned Go modules. Both are a pure
// function of source, flags and Go version, and the name under which they are cached is
// that function ([Builder.Key]), so nothing is made twice and nothing stale is ever used.
//
// It knows nothing of environments, drivers or manifests: internal/app decides what is
// built when. It must not import internal/kube, internal/engine or internal/driver.
//
// Start reading at builder.go; source.go is the key, compile.go the run of `go build`,
// store.go the cache, assemble.go and layout.go the images.
package image
