package beneath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotRegular says that a file is a link, a pipe, a device or the like.
var ErrNotRegular = errors.New("not a regular file")

// Open is os.OpenFile of the regular file name below dir. A link, at the end or on the way,
// is an error; dir itself is trusted.
func Open(dir, name string, flag int, perm fs.FileMode) (*os.File, error) {
	// A pipe would hold us up for as long as nobody writes to it.
	f, err := open(dir, name, flag|unix.O_NONBLOCK, perm)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: f.Name(), Err: ErrNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Path opens whatever is at name below dir as a place (O_PATH): for calls that take a
// descriptor, and as /proc/self/fd/N. It is not followed, read or written.
func Path(dir, name string) (*os.File, error) { return open(dir, name, unix.O_PATH, 0) }

func open(dir, name string, flag int, perm fs.FileMode) (*os.File, error) {
	name = strings.TrimPrefix(filepath.Clean("/"+name), "/")
	at := filepath.Join(dir, name)
	fail := func(err error) (*os.File, error) {
		return nil, &fs.PathError{Op: "open", Path: at, Err: err}
	}
	from, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(from)
	how := &unix.OpenHow{
		Flags:   uint64(flag | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_LARGEFILE),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flag&unix.O_CREAT != 0 {
		how.Mode = uint64(perm.Perm())
	}
	for {
		fd, err := unix.Openat2(from, name, how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), at), nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN): // something was renamed meanwhile
			continue
		case errors.Is(err, unix.ELOOP):
			return fail(fmt.Errorf("%w: a link is in the way, and links of nodes are not followed", ErrNotRegular))
		}
		return fail(err)
	}
}
