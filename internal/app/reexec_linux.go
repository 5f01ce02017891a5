package app

import "github.com/orrery-dev/orrery/internal/driver/native"

// reexec runs what the native driver has this program run again for: its supervisor and the
// first process of a node.
func reexec(args []string) (code int, handled bool) { return native.Reexec(args) }
