// Package scylla is a secrets engine of Vault that makes CQL roles of ScyllaDB which end with their lease.
//
// A credential is a role that may log in, with a password made for one lease and the statements of
// its Vault role. At the lease's end it loses its login and is dropped. What is being made is
// written down first, so that a Vault which dies in between takes it away again. A
// session that is open when its role is dropped may do nothing more once ScyllaDB's cache of
// permissions has passed (permissions_validity_in_ms).
//
// Newcomers start at [Factory], then creds.go.
package scylla
