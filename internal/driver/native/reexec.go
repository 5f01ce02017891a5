package native

import (
	"fmt"
	"os"
)

// Modes in which this program runs itself.
const (
	modeSupervise = "supervise"
	modeNodeInit  = "node-init"
)

// Reexec runs the supervisor or PID 1 of a node when args (without the program's name)
// ask for one, and reports whether they did. It must be called before anything else:
// those processes share nothing with the CLI but the binary.
func Reexec(args []string) (code int, handled bool) {
	if len(args) < 2 {
		return 0, false
	}
	var err error
	switch args[0] {
	case modeSupervise:
		err = supervise(args[1])
	case modeNodeInit:
		err = nodeInit(args[1:])
	default:
		return 0, false
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "orrery %s: %v\n", args[0], err)
		return 1, true
	}
	return 0, true
}
