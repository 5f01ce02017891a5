// Package image makes OCI images out of programs, looks into them, compares them, and gets
// them from registries and files. An image that is made here is a pure function of its
// programs and its description, and the name under which it is cached is that function.
//
// It knows nothing of environments, drivers or manifests: who uses it decides what is made
// when. It must not import internal/kube, internal/engine or internal/driver.
//
// Start reading at builder.go; assemble.go makes an image, layout.go keeps it, push.go sends
// it to the mirror; registries.go and fetch.go pull by digest, archive.go reads files.
package image
