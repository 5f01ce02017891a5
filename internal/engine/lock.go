package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/orrery-dev/orrery/internal/filelock"
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

// attempts to get at a lock file whose folder others remove meanwhile.
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
		err := os.MkdirAll(stateRoot, 0o700)
		if errors.Is(err, fs.ErrExist) { // it was there, and went away before it could be looked at
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("making the folder of all environments: %w", err)
		}
		f, err := filelock.Try(path, filelock.Exclusive)
		switch {
		case errors.Is(err, fs.ErrNotExist): // the folder went away again, with its last environment
			continue
		case errors.Is(err, filelock.ErrLocked):
			return nil, &LockedError{Path: path, Holder: holder(path)}
		case err != nil:
			return nil, fmt.Errorf("opening the lock: %w", err)
		}
		if err := sign(f, verb); err != nil {
			f.Close()
			return nil, fmt.Errorf("writing %s: %w", path, err)
		}
		return sync.OnceFunc(func() { unlock(f, stateRoot, name) }), nil
	}
	return nil, fmt.Errorf("locking %s: its folder is removed again and again", path)
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
func holder(path string) Holder {
	data, err := os.ReadFile(path)
	if err != nil {
		return Holder{}
	}
	var h Holder
	if json.Unmarshal(data, &h) != nil {
		return Holder{}
	}
	return h
}
