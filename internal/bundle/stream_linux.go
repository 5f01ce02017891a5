package bundle

import (
	"os"

	"golang.org/x/sys/unix"
)

// beginWriting has the kernel begin to write a part of a file back. It only saves time; not
// every file system has it.
func beginWriting(f *os.File, at, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), at, n, unix.SYNC_FILE_RANGE_WRITE)
}
