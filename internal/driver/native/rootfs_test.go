package native

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWithClock(t *testing.T) {
	told := "processor\t: 0\ncpu MHz\t\t: 2450.000\n"
	if got := withClock(told); got != told {
		t.Errorf("a processor that tells its clock: %q", got)
	}
	silent := "processor\t: 0\nvendor_id\t: User Mode Linux\n"
	if got := withClock(silent); runtime.GOARCH == "amd64" && (!clock.MatchString(got) || !strings.HasPrefix(got, silent)) {
		t.Errorf("one that does not: %q", got)
	}
}

// A pod with a user namespace of its own gets /proc, although the node's has files over it.
func TestUserNamespacesMayMountProc(t *testing.T) {
	if os.Getenv("ORRERY_TEST_PART") != "" {
		t.Skip("this is a part of another test")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts")
	}
	for _, whole := range []bool{false, true} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPartNodeWithMasks$", "-test.v")
		cmd.Env = append(os.Environ(), "ORRERY_TEST_PART=node", fmt.Sprintf("ORRERY_TEST_WHOLE=%t", whole), "ORRERY_TEST_ROOT="+t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "no user namespaces") {
			t.Skip("this kernel makes no user namespaces")
		}
		if (err == nil) != whole {
			t.Errorf("with a whole /proc %t: %v: %s", whole, err, out)
		}
	}
}

// A node with masks in /proc starts a container's PID 1.
func TestPartNodeWithMasks(t *testing.T) {
	if os.Getenv("ORRERY_TEST_PART") != "node" {
		t.Skip("a part of TestUserNamespacesMayMountProc")
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	// Of the host's mounts of proc none may be seen, as in a node.
	b := &rootBuilder{root: os.Getenv("ORRERY_TEST_ROOT")}
	b.mount("tmpfs", "/", "tmpfs", 0, "mode=755")
	for _, d := range []string{"usr", "lib", "lib64", "bin", "tmp", "dev"} {
		if exists("/" + d) {
			b.bind("/"+d, "/"+d, false)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b.bind(self, "/test", false)
	b.mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	b.mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
	if os.Getenv("ORRERY_TEST_WHOLE") == "true" {
		b.wholeProc()
	}
	b.mask("/proc/sys/kernel/panic", "10\n")
	b.dir("/old")
	if b.err != nil {
		t.Fatal(b.err)
	}
	if err := errors.Join(unix.PivotRoot(b.root, filepath.Join(b.root, "old")), os.Chdir("/"), unix.Unmount("/old", unix.MNT_DETACH)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/test", "-test.run=^TestPartContainer$", "-test.v")
	cmd.Env = []string{"ORRERY_TEST_PART=container"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Credential:  &syscall.Credential{NoSetGroups: true},
		UidMappings: []syscall.SysProcIDMap{{HostID: 65536, Size: 65536}}, GidMappings: []syscall.SysProcIDMap{{HostID: 65536, Size: 65536}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSPC) {
		t.Fatal("no user namespaces")
	}
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestPartContainer(t *testing.T) {
	if os.Getenv("ORRERY_TEST_PART") != "container" {
		t.Skip("a part of TestUserNamespacesMayMountProc")
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		t.Error(err)
	}
}
