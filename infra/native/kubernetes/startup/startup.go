// Package startup makes programs start with less work of the garbage collector. What a
// control plane allocates in its first seconds it mostly keeps, and to look at it again and
// again is a twelfth of the CPU time until a cluster is ready. Once that is over, memory
// counts, and the collector works as always.
//
// It imports next to nothing, so that it is initialised before the packages whose
// initialisation already is a good part of a start.
package startup

import (
	"os"
	"runtime/debug"
	"time"
)

const (
	lenient = 400              // GOGC at first
	usual   = 100              // GOGC afterwards
	phase   = 20 * time.Second // a cluster of five is up by then
)

func init() {
	if os.Getenv("GOGC") != "" {
		return // a person knows better
	}
	debug.SetGCPercent(lenient)
	time.AfterFunc(phase, func() { debug.SetGCPercent(usual) })
}
