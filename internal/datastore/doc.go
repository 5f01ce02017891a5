// Package datastore takes what a data store holds into a file, and back. A file is a tar with a
// header first, what the store gave in the middle, and the sums of all of it at the end, so that
// one that was cut short, or changed, is refused before anything is touched.
//
// It is given connections, and must not know environments, clusters or drivers.
//
// Start reading at archive.go, the file; jetstream.go is the store of NATS.
package datastore
