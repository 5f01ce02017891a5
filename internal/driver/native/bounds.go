package native

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// bounds are what an environment may take of the machine at most, so that what runs in it can
// neither start the host's out-of-memory killer nor take all process numbers.
type bounds struct {
	Memory    uint64 // bytes
	Processes uint64
}

// hostBounds leaves the host a sixteenth of its memory, at least 512 MiB, and a quarter of its
// process numbers. 0 is no bound: what the host has cannot be told.
func hostBounds(meminfo, pidMax string) bounds {
	var b bounds
	if total, ok := memTotal(meminfo); ok {
		b.Memory = total - min(max(total/16, 512<<20), total/2)
	}
	if n, err := strconv.ParseUint(strings.TrimSpace(pidMax), 10, 63); err == nil {
		b.Processes = n - n/4
	}
	return b
}

// memTotal of /proc/meminfo, in bytes.
func memTotal(meminfo string) (uint64, bool) {
	for line := range strings.Lines(meminfo) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kb, err := strconv.ParseUint(f[1], 10, 53)
			return kb << 10, err == nil
		}
	}
	return 0, false
}

// bound sets the bounds of a group. A controller that the group does not have is left out, and told.
func (c cgroups) bound(group string, b bounds) error {
	var errs []error
	set := func(controller, v1, v2 string, value uint64) {
		if value == 0 {
			return
		}
		file := filepath.Join(c.Unified, group, v2)
		if !c.v2() {
			i := slices.IndexFunc(c.V1, func(h hierarchy) bool { return slices.Contains(strings.Split(h.Options, ","), controller) })
			if i < 0 {
				errs = append(errs, fmt.Errorf("controller %s is not mounted", controller))
				return
			}
			file = filepath.Join(c.V1[i].Mount, group, v1)
		}
		if err := put(file, strconv.FormatUint(value, 10)); errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("controller %s was not given to %s", controller, group))
		} else if err != nil {
			errs = append(errs, err)
		}
	}
	set("memory", "memory.limit_in_bytes", "memory.max", b.Memory)
	set("pids", "pids.max", "pids.max", b.Processes)
	return errors.Join(errs...)
}

func readBounds() bounds {
	meminfo, _ := os.ReadFile("/proc/meminfo")
	pidMax, _ := os.ReadFile("/proc/sys/kernel/pid_max")
	return hostBounds(string(meminfo), string(pidMax))
}
