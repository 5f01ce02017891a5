package native

import (
	"fmt"
	"os"

	"github.com/orrery-dev/orrery/internal/proc"
)

// Modes in which this program runs itself.
const (
	modeSupervise = "supervise"
	modeNodeInit  = "node-init"
	// asService follows the folder once the supervisor has nothing of its caller any more.
	asService = "as-service"
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
		if len(args) == 2 {
			err = superviseAsService(args[1])
		} else {
			err = supervise(args[1])
		}
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

// superviseAsService runs the supervisor with nothing of what its caller has: nodes and pods
// inherit from it, for as long as the environment lives.
func superviseAsService(dir string) error {
	for _, k := range proc.Kept() {
		fmt.Fprintln(os.Stderr, "kept from the caller, since it cannot be changed: "+k)
	}
	return proc.ExecService("/proc/self/exe", []string{os.Args[0], modeSupervise, dir, asService}, os.Environ())
}
