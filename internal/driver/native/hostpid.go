package native

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// hostPIDs maps PIDs as a node's PID 1 sees its children to PIDs on the host.
func hostPIDs(init int) map[int]int {
	m := map[int]int{}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", init))
	if err != nil {
		return m
	}
	for _, t := range tasks { // children are listed under the thread that made them
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", init, t.Name()))
		if err != nil {
			continue
		}
		for _, f := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(f)
			if err != nil {
				continue
			}
			status, err := os.ReadFile("/proc/" + f + "/status")
			if err != nil {
				continue
			}
			if inner, ok := innerPID(string(status)); ok {
				m[inner] = pid
			}
		}
	}
	return m
}

// innerPID takes the PID in the second namespace out of /proc/PID/status: "NSpid: outer inner".
func innerPID(status string) (int, bool) {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			f := strings.Fields(rest)
			if len(f) < 2 {
				return 0, false
			}
			pid, err := strconv.Atoi(f[len(f)-1])
			return pid, err == nil
		}
	}
	return 0, false
}
