// Package world is the public network, for tests: registries and file servers of any host name,
// which answer on 127.0.0.1 through a proxy, with certificates of an authority of the test's. What
// needs a registry is tried against it on machines that reach none.
//
// Start reading at world.go.
package world
