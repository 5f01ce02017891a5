package native

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func goodPlace(path string) (place, error) {
	return place{path: path, mode: fs.ModeDir | 0o755, mount: "/", fstype: "ext4", options: []string{"rw", "relatime"}}, nil
}

func TestFolders(t *testing.T) {
	state := folder{what: "the environment", path: "/s", programs: true, layers: true, keys: true}
	cache := folder{what: "the cache", path: "/c", programs: true}
	temporary := folder{what: "temporary files", path: "/t"}
	for _, tc := range []struct {
		name    string
		f       folder
		bend    func(*place)
		refused string
		warning string
	}{
		{"all good", state, func(*place) {}, "", ""},
		{"noexec", state, func(p *place) { p.mount, p.options = "/mnt/x", []string{"rw", "noexec"} }, "/mnt/x is mounted with noexec", ""},
		{"cache on noexec", cache, func(p *place) { p.options = []string{"rw", "noexec"} }, "noexec", ""},
		{"temporary files on noexec", temporary, func(p *place) { p.options = []string{"rw", "noexec"} }, "", ""},
		{"read-only", temporary, func(p *place) { p.options = []string{"ro"} }, "read-only (ro)", ""},
		{"a file", cache, func(p *place) { p.mode = 0o644 }, "no folder", ""},
		{"NFS", state, func(p *place) { p.fstype = "nfs4" }, "type nfs4", ""},
		{"cache on NFS", cache, func(p *place) { p.fstype = "nfs4" }, "", ""},
		{"everybody may write", cache, func(p *place) { p.mode |= 0o777 }, "chmod o-w", ""},
		{"below a sticky folder", cache, func(p *place) { p.mode |= 0o777 | fs.ModeSticky }, "", ""},
		{"temporary files of everybody", temporary, func(p *place) { p.mode |= 0o777 }, "", ""},
		{"somebody else's", state, func(p *place) { p.owner, p.exact = 1000, true }, "belongs to user 1000", ""},
		{"in somebody's home", state, func(p *place) { p.owner = 1000 }, "", ""},
		{"tmpfs", state, func(p *place) { p.fstype = "tmpfs" }, "", "gone when the machine restarts"},
	} {
		p, _ := goodPlace(tc.f.path)
		tc.bend(&p)
		refused, warning := tc.f.judge(p, 0)
		if (refused != nil) != (tc.refused != "") || refused != nil && !strings.Contains(refused.Error(), tc.refused) ||
			(warning != "") != (tc.warning != "") || !strings.Contains(warning, tc.warning) {
			t.Errorf("%s: %v, %q", tc.name, refused, warning)
		}
	}
}

func TestPlaceOf(t *testing.T) {
	dir := t.TempDir()
	p, err := placeOf(dir + "/a/b")
	if err != nil || p.path != dir || p.exact || !p.mode.IsDir() || p.mount == "" || p.owner != os.Getuid() {
		t.Errorf("%+v, %v", p, err)
	}
	if err := os.Symlink(dir, filepath.Join(t.TempDir(), "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", dir+"/dangling"); err != nil {
		t.Fatal(err)
	}
	if _, err := placeOf(dir + "/dangling"); err == nil {
		t.Error("a link that leads nowhere is a place")
	}
	p = place{path: "/mnt/a b/c"}
	err = p.findMount(strings.NewReader(`22 1 8:1 / / rw - ext4 /dev/sda rw
50 22 0:40 / /mnt/a\040b rw,noexec - xfs /dev/sdb rw
51 22 0:41 / /mnt/a rw - tmpfs tmpfs rw
`))
	if err != nil || p.mount != "/mnt/a b" || p.fstype != "xfs" || strings.Join(p.options, " ") != "rw noexec rw" {
		t.Errorf("%+v, %v", p, err)
	}
}

// On a real mount with noexec preflight refuses, and so does the start, by name.
func TestNoexecIsNamed(t *testing.T) {
	if os.Getenv("ORRERY_TEST_PART") != "noexec" {
		if os.Geteuid() != 0 {
			t.Skip("needs root: it mounts")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestNoexecIsNamed$", "-test.v")
		cmd.Env = append(os.Environ(), "ORRERY_TEST_PART=noexec")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	at := t.TempDir()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOEXEC, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	program := filepath.Join(at, "program")
	if err := installExecutable(os.Args[0], program); err != nil {
		t.Fatal(err)
	}
	d := &Driver{host: host{place: placeOf}}
	if err := d.whyNotRun(program, exec.Command(program).Start()); err == nil || !strings.Contains(err.Error(), at+" is mounted with noexec") {
		t.Errorf("got %v", err)
	}
}
