//go:build !linux

package app

// reexec: there is no native driver here.
func reexec([]string) (code int, handled bool) { return 0, false }
