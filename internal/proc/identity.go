package proc

import (
	"errors"
	"fmt"
)

// Identity names one process for good. The zero value names none.
type Identity struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot: field 22 of /proc/PID/stat, proc_pid_stat(5)
	Boot  string `json:"boot"`  // /proc/sys/kernel/random/boot_id
}

// ErrGone says that the process of an [Identity] has ended (its PID may live on as another's).
var ErrGone = errors.New("process has ended")

// String is PID@START, the form that journals use.
func (id Identity) String() string { return fmt.Sprintf("%d@%d", id.PID, id.Start) }
