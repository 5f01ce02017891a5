package filelock

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Holder is a process that holds a lock.
type Holder struct {
	PID     int
	UID     int
	Program string
}

func (h Holder) String() string {
	return fmt.Sprintf("process %d (%s, user %d)", h.PID, h.Program, h.UID)
}

// stranger: neither root's nor our user's.
func (h Holder) stranger() bool { return h.UID != 0 && h.UID != os.Geteuid() }

// Holders lists who holds the lock on path, as /proc/locks has it: of this PID namespace, and
// on file systems whose numbers the kernel shows there.
func Holders(path string) []Holder {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return nil
	}
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nil
	}
	var found []Holder
	for _, pid := range parseLocks(string(b), fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino)) { //nolint:unconvert // 32 bits on macOS
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		var owner unix.Stat_t
		if unix.Stat(dir, &owner) != nil {
			continue // it has ended
		}
		name, _ := os.ReadFile(filepath.Join(dir, "comm"))
		found = append(found, Holder{PID: pid, UID: int(owner.Uid), Program: strings.TrimSpace(string(name))})
	}
	return found
}

// parseLocks reads "1: FLOCK  ADVISORY  WRITE 4711 08:01:12 0 EOF"; who waits has an arrow.
func parseLocks(content, file string) (pids []int) {
	for line := range strings.Lines(content) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || f[5] != file {
			continue
		}
		if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}
