// Package oci reads and writes what the OCI specifications define, for all who need it here:
// manifests and indexes with limits on what others may send, what refers to an image, image
// layouts on the disk, and which of an image's platforms is meant. Descriptors, digests and
// media types are those of go-containerregistry.
//
// It makes no connection: requests are handed to it. It imports nothing of this module.
//
// Start reading at manifest.go.
package oci
