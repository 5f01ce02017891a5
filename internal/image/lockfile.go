package image

import "github.com/orrery-dev/orrery/internal/filelock"

const (
	lockShared    = filelock.Shared
	lockExclusive = filelock.Exclusive
)

var (
	errLocked = filelock.ErrLocked
	lockFile  = filelock.Try
	waitLock  = filelock.Wait
)
