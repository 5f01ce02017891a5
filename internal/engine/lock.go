package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile is the name beside the state directory's content.
const lockFile = "lock"

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

// Lock makes sure that one verb at a time changes the environment of stateDir, which is
// made when absent. It does not wait: a held lock is a [*LockedError]. The lock ends
// with release or with the process, however that ends.
func Lock(stateDir, verb string) (release func(), err error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	path := filepath.Join(stateDir, lockFile)
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
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
		// Between open and flock `down` may have removed the directory: then this is a lock
		// on a file that nobody else can find.
		if !sameFile(f, path) {
			f.Close()
			if err := os.MkdirAll(stateDir, 0o700); err != nil {
				return nil, fmt.Errorf("making the state directory: %w", err)
			}
			continue
		}
		if err := sign(f, verb); err != nil {
			f.Close()
			return nil, fmt.Errorf("writing %s: %w", path, err)
		}
		return func() { f.Close() }, nil
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
