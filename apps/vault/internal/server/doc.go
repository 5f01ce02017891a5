// Package server runs one node of Vault out of the packages of Vault's own module: raft storage,
// a seal whose key is in a file, a listener for clients, one for other nodes and one for
// Prometheus. It takes the place of Vault's command line, which is linked with the clouds that it
// could be unsealed by and with every engine that there is; see docs/adr/0052.
//
// Start reading at server.go. What engines there are is in internal/backends.
package server
