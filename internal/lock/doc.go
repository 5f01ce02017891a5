// Package lock is orrery.lock: what every binary and image must be, bit for bit, and the
// inputs that make it so. It reads, writes and compares; it never looks at the world, so
// it must not import os/exec, net or anything that builds. internal/image describes what
// is there, internal/app decides what a difference means.
//
// Start reading at types.go; check.go compares.
package lock
