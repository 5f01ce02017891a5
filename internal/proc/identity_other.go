//go:build !linux

package proc

import "syscall"

// childOf is the identity of a process that this one started and has not waited for: until then
// its PID is nobody else's.
func childOf(pid int) (Identity, error) { return Identity{PID: pid}, nil }

// endsWithUs: only Linux has it. A command outlives us here when we are killed.
func endsWithUs(*syscall.SysProcAttr) {}

// rssUnit is what getrusage(2) counts ru_maxrss in, in bytes.
const rssUnit = 1
