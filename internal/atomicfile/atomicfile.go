package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrNotAFile says that what is to be replaced is a device, a pipe or a socket.
var ErrNotAFile = errors.New("not a file: a device, pipe or socket is not replaced")

// replaceable refuses what a rename would take from the whole machine, such as /dev/null.
func replaceable(path string) error {
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket|fs.ModeIrregular) != 0 {
		return &fs.PathError{Op: "replace", Path: path, Err: ErrNotAFile}
	}
	return nil // what else is wrong with it, the rename says
}

// Write replaces path, or makes it, with data and mode, whatever the umask. The content is
// on the disk before it has the name; that the name survives a power loss too, a sync of the
// folder sees to. The folder must exist. A failure leaves what was there, and nothing else.
func Write(path string, data []byte, mode fs.FileMode) error {
	if err := replaceable(path); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
