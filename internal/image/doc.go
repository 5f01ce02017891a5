// Package image makes binaries and OCI images out of pinned Go modules. Both are a
// pure function of source, flags and Go version: the cache key is that function.
//
// Start reading at builder.go.
package image
