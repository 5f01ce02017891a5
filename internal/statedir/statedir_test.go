package statedir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseMounts(t *testing.T) {
	const info = `22 1 8:1 / / rw - ext4 /dev/sda rw
50 22 0:40 / /var/lib/orrery/a/nodes/x rw - tmpfs tmpfs rw
51 22 0:41 / /var/lib/orrery/ab rw - tmpfs tmpfs rw
52 22 0:42 / /var/lib/orrery/a/with\040space rw - tmpfs tmpfs rw
`
	got, err := parseMounts(strings.NewReader(info), "/var/lib/orrery/a")
	if want := []string{"/var/lib/orrery/a/nodes/x", "/var/lib/orrery/a/with space"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
}

// ownMounts lets the test mount: seen by nobody, and gone with its thread.
func ownMounts(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	runtime.LockOSThread() // for good
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skip("no mount namespace:", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
}

func mount(t *testing.T, source, at string) {
	t.Helper()
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if source == "" {
		err = unix.Mount("tmpfs", at, "tmpfs", 0, "size=1m")
	} else {
		err = unix.Mount(source, at, "", unix.MS_BIND, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
}

// fill lays what an environment leaves in its folder.
func fill(t *testing.T, dir string) {
	t.Helper()
	for _, f := range []string{"environment.json", "pki/ca.key", "nodes/server1/var/lib/etcd/member/snap/db", "registry/docker/x"} {
		at := filepath.Join(dir, f)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, []byte("secret"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// files below dir, without folders.
func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir+"/", func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return all
}

func TestRemove(t *testing.T) {
	type place struct {
		state  string   // the environment's folder
		looked string   // where its content really is
		stays  []string // mounts and links
		left   []string // what the audit says then
		alone  string   // a file that is not ours
	}
	for name, lay := range map[string]func(t *testing.T, top string) place{
		"a folder": func(t *testing.T, top string) place {
			s := filepath.Join(top, "state")
			return place{state: s, looked: s}
		},
		"on a volume": func(t *testing.T, top string) place {
			s := filepath.Join(top, "state")
			mount(t, "", s)
			return place{state: s, looked: s, stays: []string{s}}
		},
		"on a bind mount": func(t *testing.T, top string) place {
			s, disk := filepath.Join(top, "state"), filepath.Join(top, "disk")
			if err := os.Mkdir(disk, 0o700); err != nil {
				t.Fatal(err)
			}
			mount(t, disk, s)
			return place{state: s, looked: disk, stays: []string{s}}
		},
		"behind a link": func(t *testing.T, top string) place {
			s, disk := filepath.Join(top, "state"), filepath.Join(top, "disk")
			if err := errors.Join(os.Mkdir(disk, 0o700), os.Symlink("disk", s)); err != nil {
				t.Fatal(err)
			}
			return place{state: s, looked: disk, stays: []string{s}}
		},
		"below a link": func(t *testing.T, top string) place {
			disk := filepath.Join(top, "disk")
			if err := errors.Join(os.Mkdir(disk, 0o700), os.Symlink(disk, filepath.Join(top, "root"))); err != nil {
				t.Fatal(err)
			}
			return place{state: filepath.Join(top, "root", "state"), looked: filepath.Join(disk, "state"), stays: []string{filepath.Join(top, "root")}}
		},
		"behind a link, on a volume": func(t *testing.T, top string) place {
			s, disk := filepath.Join(top, "state"), filepath.Join(top, "disk")
			mount(t, "", disk)
			if err := os.Symlink(disk, s); err != nil {
				t.Fatal(err)
			}
			return place{state: s, looked: disk, stays: []string{s, disk}}
		},
		"a node's data on a volume": func(t *testing.T, top string) place {
			s := filepath.Join(top, "state")
			at := filepath.Join(s, "nodes", "server1", "var")
			mount(t, "", at)
			return place{state: s, looked: at, stays: []string{at}}
		},
		"somebody's photos in a node": func(t *testing.T, top string) place {
			s, photos := filepath.Join(top, "state"), filepath.Join(top, "photos")
			photo := filepath.Join(photos, "photo")
			if err := errors.Join(os.Mkdir(photos, 0o700), os.WriteFile(photo, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			at := filepath.Join(s, "nodes", "server1", "var", "photos")
			mount(t, photos, at)
			return place{state: s, looked: filepath.Join(s, "pki"), stays: []string{at}, alone: photo,
				left: []string{"mount " + at + ", which is not of the environment's making: it and what is on it were left alone"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ownMounts(t)
			p := lay(t, t.TempDir())
			fill(t, p.state)
			if left, err := Left(p.state); err != nil || len(left) == 0 {
				t.Errorf("the audit sees nothing of a whole environment: %v", err)
			}
			for range 2 {
				if err := Remove(p.state); err != nil {
					t.Fatal(err)
				}
			}
			for _, dir := range []string{p.state, p.looked} {
				for _, f := range files(t, dir) {
					if p.alone == "" || filepath.Base(f) != "photo" {
						t.Errorf("%s is left", f)
					}
				}
			}
			if p.alone != "" {
				if _, err := os.Stat(p.alone); err != nil {
					t.Error("somebody's file is gone:", err)
				}
			}
			all, err := MountsBelow("")
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range p.stays {
				st, err := os.Lstat(s)
				if err != nil || st.Mode()&fs.ModeSymlink == 0 && !slices.Contains(all, s) {
					t.Errorf("%s is gone or no mount any more: %v", s, err)
				}
			}
			if left, err := Left(p.state); err != nil || !slices.Equal(left, p.left) {
				t.Errorf("audit: %q, %v", left, err)
			}
			if _, err := os.Lstat(p.state); len(p.stays) == 0 && err == nil {
				t.Error("the folder is left")
			}
			fill(t, p.state) // and it can be used again
		})
	}
}

// A mount that comes back with old data on it is found by the audit.
func TestLeftOnAMount(t *testing.T) {
	ownMounts(t)
	dir := filepath.Join(t.TempDir(), "state")
	mount(t, "", dir)
	fill(t, dir)
	left, err := Left(dir)
	if err != nil || len(left) != 4 || !slices.Contains(left, "file "+filepath.Join(dir, "environment.json")) {
		t.Errorf("%q, %v", left, err)
	}
}
