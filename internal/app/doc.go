// Package app is the command line: one file per verb, streams, signals, and the one
// place where an error becomes an exit code. Nothing else prints or exits.
//
// Start reading at app.go.
package app
