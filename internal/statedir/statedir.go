package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ours are the folders of an environment that a person may put on a disk of their own: what is
// on such a mount is the environment's, and goes with it. What is on any other mount below was
// put there by somebody, and nobody knows what for.
var ours = []string{".", "registry", "layers", "log", "pki", "dist", "dist/*", "nodes", "nodes/*", "nodes/*/log",
	"nodes/*/var", "nodes/*/var/lib", "nodes/*/var/lib/*"}

// folder is an environment's folder as it really is.
type folder struct {
	real   string   // without links
	mounts []string // on it and below it
	link   bool     // the folder is a link to real
}

// look returns fs.ErrNotExist where there is nothing, also behind a link.
func look(dir string) (f folder, err error) {
	st, err := os.Lstat(dir)
	if err != nil {
		return f, err
	}
	f.link = st.Mode()&fs.ModeSymlink != 0
	if f.real, err = filepath.EvalSymlinks(dir); err != nil {
		return f, err
	}
	if st, err := os.Stat(f.real); err != nil || !st.IsDir() {
		return f, errors.Join(fmt.Errorf("%s is no folder", dir), err)
	}
	f.mounts, err = MountsBelow(f.real)
	return f, err
}

func (f folder) mounted(path string) bool { return slices.Contains(f.mounts, path) }

// holds: there is a mount below path.
func (f folder) holds(path string) bool {
	return slices.ContainsFunc(f.mounts, func(m string) bool { return strings.HasPrefix(m, path+"/") })
}

// foreign: path is a mount that is not one of [ours].
func (f folder) foreign(path string) bool {
	if !f.mounted(path) {
		return false
	}
	rel, err := filepath.Rel(f.real, path)
	return err != nil || !slices.ContainsFunc(ours, func(pattern string) bool {
		ok, _ := filepath.Match(pattern, rel)
		return ok
	})
}

// Remove removes all that is in dir, and dir. A link in its place stays, and so do mounts: on
// those of the environment's own folders everything goes, others are left alone. An absent
// folder is no error.
func Remove(dir string) error {
	f, err := look(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := f.empty(f.real); err != nil {
		return err
	}
	if f.link || f.mounted(f.real) || f.holds(f.real) {
		return nil
	}
	return unix.Rmdir(f.real)
}

// empty removes what is in dir and goes on past errors.
func (f folder) empty(dir string) error {
	entries, err := os.ReadDir(dir)
	errs := []error{err}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case f.foreign(path):
		case e.IsDir() && (f.mounted(path) || f.holds(path)):
			errs = append(errs, f.empty(path))
			_ = unix.Rmdir(path) // unless it holds a mount, or is one
		case f.mounted(path): // of a file
		default:
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

// most is how many leftovers are named.
const most = 10

// Left lists what is left of dir after [Remove], a line for a person each. A link or a mount
// that a person made is nothing that is left; what is on it is.
func Left(dir string) ([]string, error) {
	f, err := look(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !f.link && len(f.mounts) == 0 {
		return []string{"directory " + dir}, nil
	}
	var left []string
	err = filepath.WalkDir(f.real, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case len(left) >= most:
			return fs.SkipAll
		case f.foreign(path):
			left = append(left, fmt.Sprintf("mount %s, which is not of the environment's making: it and what is on it were left alone", path))
			if e.IsDir() {
				return fs.SkipDir
			}
		case path == f.real, f.mounted(path) && e.IsDir(), e.IsDir() && f.holds(path):
		default:
			what := "file"
			if e.IsDir() {
				what = "directory"
			}
			left = append(left, what+" "+path)
			if e.IsDir() {
				return fs.SkipDir
			}
		}
		return nil
	})
	return left, err
}

// RemoveEmpty removes dir when it is an empty folder, and no link or mount.
func RemoveEmpty(dir string) { _ = unix.Rmdir(dir) }

// Real is dir without links, as far as it exists: what the kernel calls files in it.
func Real(dir string) string {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return real
	}
	if parent := filepath.Dir(dir); parent != dir {
		return filepath.Join(Real(parent), filepath.Base(dir))
	}
	return dir
}
