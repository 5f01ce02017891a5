//go:build !linux

package beneath

import (
	"fmt"
	"io/fs"
	"os"
)

// Open opens the regular file name below dir. No link leads out of dir; on Linux none is
// followed at all, since nodes run there only.
func Open(dir, name string, flag int, perm fs.FileMode) (*os.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s below %s is no regular file", name, dir)
	}
	return f, nil
}
