package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/statedir"
)

// Holder is who changes an environment right now.
type Holder struct {
	PID   int       `json:"pid"`
	Verb  string    `json:"verb"`
	Since time.Time `json:"since"`
}

// LockedError says that another verb changes the environment.
type LockedError struct {
	Path   string
	Holder Holder // zero when it could not be read
}

func (e *LockedError) Error() string {
	if e.Holder.PID == 0 {
		return fmt.Sprintf("another orrery changes this environment (%s is locked); wait for it to end", e.Path)
	}
	return fmt.Sprintf("`orrery %s` (PID %d, since %s) changes this environment; wait for it to end or stop it with: kill %d",
		e.Holder.Verb, e.Holder.PID, e.Holder.Since.Local().Format("15:04:05"), e.Holder.PID)
}

// lockPath is beside the environment's folder, which `down` removes: the lock outlives it.
func lockPath(stateRoot, name string) string {
	return filepath.Join(stateRoot, "."+name+".lock")
}

// attempts to get at a lock file that others remove meanwhile; each has a reason that passes.
const attempts = 100

// Lock makes sure that one verb at a time changes the environment name, whose folder is
// stateRoot/name. It does not wait: a held lock is a [*LockedError]. The lock ends with release
// or with the process, however that ends. What was read of the environment before says nothing:
// another verb may have ended since.
//
// Whoever removes the environment holds the lock until the last file is gone and the audit is
// made. When nothing is left of the environment, release takes the lock's file away, too, and
// stateRoot, when that is empty.
func Lock(stateRoot, name, verb string) (release func(), err error) {
	path := lockPath(stateRoot, name)
	for range attempts {
		if err := os.MkdirAll(stateRoot, 0o700); err != nil {
			return nil, fmt.Errorf("making the folder of all environments: %w", err)
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if errors.Is(err, fs.ErrNotExist) { // the folder went away again, with its last environment
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("opening the lock: %w", err)
		}
		err = flock(f)
		if errors.Is(err, unix.EWOULDBLOCK) {
			defer f.Close()
			return nil, &LockedError{Path: path, Holder: holder(f)}
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		// Between open and flock its holder may have removed it: then this is a lock on a file
		// that nobody else can find.
		if !sameFile(f, path) {
			f.Close()
			continue
		}
		if err := sign(f, verb); err != nil {
			f.Close()
			return nil, fmt.Errorf("writing %s: %w", path, err)
		}
		return sync.OnceFunc(func() { unlock(f, stateRoot, name) }), nil
	}
	return nil, fmt.Errorf("locking %s: it is removed again and again", path)
}

// unlock lets go, and leaves no trace of an environment that is not there.
func unlock(f *os.File, stateRoot, name string) {
	left, err := statedir.Left(filepath.Join(stateRoot, name))
	gone := err == nil && len(left) == 0
	if gone {
		_ = os.Remove(lockPath(stateRoot, name)) // while it is held: it is still ours
	}
	f.Close()
	if gone {
		statedir.RemoveEmpty(stateRoot)
	}
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

func sign(f *os.File, verb string) error {
	data, err := json.Marshal(Holder{PID: os.Getpid(), Verb: verb, Since: time.Now().Truncate(time.Second)})
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(append(data, '\n'), 0)
	return err
}

// holder reads who signed; the signature of one that just took the lock may be missing.
func holder(f *os.File) Holder {
	buf := make([]byte, 4096)
	n, _ := f.ReadAt(buf, 0)
	var h Holder
	if json.Unmarshal(bytes.TrimSpace(buf[:n]), &h) != nil {
		return Holder{}
	}
	return h
}
