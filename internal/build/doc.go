// Package build makes programs out of pinned Go modules, and archives out of modules and
// Debian packages. What it makes is a pure function of source, flags and Go version, and the
// name under which it is cached is that function ([Builder.Key]), so nothing is made twice
// and nothing stale is ever used.
//
// It knows nothing of images, environments or manifests: who uses it decides what is built
// when. It must not import internal/image, internal/kube, internal/engine or internal/driver.
//
// Start reading at builder.go; source.go is the key, compile.go the run of `go build`,
// absent.go what is made before it, store.go the cache, folder.go and debian.go the archives,
// unpack.go how nodes get them.
package build
