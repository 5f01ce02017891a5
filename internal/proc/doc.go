// Package proc runs commands and tells processes apart.
//
// [Run] executes one command under a context: its whole process group ends with the
// context (and with us), and a failure carries the end of what it wrote to stderr.
// [Identity] names a process for good: a PID alone is reused, a PID with its start time
// and the boot is not, and signals go through a pidfd.
//
// The package knows nothing of environments or nodes and imports nothing of this module.
// Start reading at identity.go.
package proc
