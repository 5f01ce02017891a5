package native

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/statedir"
)

// place is where a path is or will be: its nearest folder that exists.
type place struct {
	path    string // without links
	exact   bool   // the path itself is there
	mode    fs.FileMode
	owner   int
	mount   string // its mount point
	fstype  string
	options []string // of the mount and of its file system
}

// folder is one that an environment uses.
type folder struct {
	what, path string
	programs   bool // are run from there
	layers     bool // of images are unpacked there
	keys       bool // nobody else may get at it
}

func (d *Driver) folders() []folder {
	f := []folder{{what: "the environment", path: string(d.paths), programs: true, layers: true, keys: true}}
	if d.options.CacheDir != "" {
		// What is compiled is linked or copied from there, and compilers run there.
		f = append(f, folder{what: "the cache", path: d.options.CacheDir, programs: true})
	}
	return append(f, folder{what: "temporary files (TMPDIR)", path: os.TempDir()})
}

// checkFolders looks at what a person may have mounted or made where files go.
func (d *Driver) checkFolders(context.Context) check.Result {
	var warnings []string
	for _, f := range d.folders() {
		p, err := d.host.place(f.path)
		if err != nil {
			return check.Fail(fmt.Errorf("%s goes to %s: %w", f.what, f.path, err))
		}
		refused, warning := f.judge(p, d.host.euid())
		if refused != nil {
			return check.Fail(fmt.Errorf("%s goes to %s: %w", f.what, f.path, refused))
		}
		if warning != "" {
			warnings = append(warnings, fmt.Sprintf("%s goes to %s: %s", f.what, f.path, warning))
		}
	}
	if len(warnings) > 0 {
		return check.Skip("%s", strings.Join(warnings, "; "))
	}
	return check.OK("%s and the folders of cache and temporary files can be used", d.paths)
}

// noLayers are file systems that images cannot be unpacked on: they lack extended attributes
// of the system, device files or whiteouts. See overlayfs of the kernel, "upper and lower".
var noLayers = []string{"nfs", "nfs4", "cifs", "smb3", "9p", "vfat", "msdos", "exfat", "ntfs", "ntfs3", "fuse.sshfs", "fuse.rclone", "squashfs", "iso9660"}

// judge says what keeps p from being f, or what a person should know of it.
func (f folder) judge(p place, euid int) (refused error, warning string) {
	has := func(option string) bool { return slices.Contains(p.options, option) }
	switch {
	case !p.mode.IsDir():
		return fmt.Errorf("%s is no folder (%s): move it away", p.path, p.mode), ""
	case has("ro"):
		return fmt.Errorf("%s is mounted read-only (ro): mount -o remount,rw %s", p.mount, p.mount), ""
	case f.programs && has("noexec"):
		return fmt.Errorf("%s is mounted with noexec, and programs are run from there: mount -o remount,exec %s, or take another folder", p.mount, p.mount), ""
	case f.layers && slices.Contains(noLayers, p.fstype):
		return fmt.Errorf("%s is a file system of type %s, on which nodes cannot unpack images: take a folder on a disk", p.mount, p.fstype), ""
	case (f.keys || f.programs) && p.mode.Perm()&0o002 != 0 && p.mode&fs.ModeSticky == 0:
		return fmt.Errorf("everybody may write to %s (mode %04o), and so change what runs as root: chmod o-w %s", p.path, p.mode.Perm(), p.path), ""
	case f.keys && p.exact && p.owner != euid && euid == 0:
		return fmt.Errorf("%s belongs to user %d, who could read its keys: chown root %s", p.path, p.owner, p.path), ""
	case f.keys && p.fstype == "tmpfs":
		return nil, fmt.Sprintf("%s is a tmpfs: all of it is gone when the machine restarts", p.mount)
	}
	return nil, ""
}

// placeOf looks at the nearest folder of path that exists.
func placeOf(path string) (place, error) {
	at := filepath.Clean(path)
	for !exists(at) && at != "/" {
		at = filepath.Dir(at)
	}
	real, err := filepath.EvalSymlinks(at)
	if err != nil {
		return place{}, fmt.Errorf("a link that leads nowhere: %w", err)
	}
	st, err := os.Stat(real)
	if err != nil {
		return place{}, err
	}
	p := place{path: real, exact: at == filepath.Clean(path), mode: st.Mode()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		p.owner = int(sys.Uid)
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return p, err
	}
	defer f.Close()
	return p, p.findMount(f)
}

// findMount reads the format of proc_pid_mountinfo(5). Of mounts on one place the last counts.
func (p *place) findMount(r io.Reader) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		before, after, ok := strings.Cut(s.Text(), " - ")
		f, a := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(a) < 3 {
			continue
		}
		at := statedir.Unescape(f[4])
		within := at == "/" || p.path == at || strings.HasPrefix(p.path, at+"/")
		if within && len(at) >= len(p.mount) {
			p.mount, p.fstype = at, a[0]
			p.options = slices.Concat(strings.Split(f[5], ","), strings.Split(a[2], ","))
		}
	}
	return s.Err()
}

// whyNotRun explains the error of starting a program of the environment by where it is.
func (d *Driver) whyNotRun(program string, err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	p, perr := d.host.place(filepath.Dir(program))
	if perr != nil {
		return err
	}
	if refused, _ := (folder{programs: true}).judge(p, 0); refused != nil {
		return fmt.Errorf("%w: %w", err, refused)
	}
	return err
}
