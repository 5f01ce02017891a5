package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Set by TestMain, constant afterwards.
var (
	cli      string // the program under test
	repo     string // the repository, whose catalogue is deployed
	stateDir string // ORRERY_STATE_DIR of every environment here
	logDir   string // of failed tests
	skipped  string // why nothing runs
	before   host   // what the machine was like before the first test

	neighboursBefore []string // environments of others, then
)

// The main thread stays with TestMain. A test that takes its thread into another network
// namespace could get this one otherwise, and /proc/net is the main thread's.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (code int, err error) {
	switch {
	case os.Getenv("ORRERY_E2E") != "1":
		skipped = "these tests make real platforms and take minutes: ORRERY_E2E=1 runs them"
	case runtime.GOOS != "linux":
		skipped = "the native driver needs Linux"
	case os.Geteuid() != 0:
		skipped = "the native driver makes namespaces, mounts and cgroups: needs root"
	}
	if skipped != "" {
		return m.Run(), nil
	}
	parent := os.Getenv("ORRERY_E2E_DIR")
	if parent == "" {
		parent = "/var/tmp"
	}
	if err := realFileSystem(parent); err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp(parent, "orrery-e2e-")
	if err != nil {
		return 1, err
	}
	if repo, err = filepath.Abs("../.."); err != nil {
		return 1, err
	}
	logDir = os.Getenv("ORRERY_E2E_LOGS")
	if logDir == "" {
		logDir = filepath.Join(dir, "logs")
	}
	stateDir = filepath.Join(dir, "state")
	for _, d := range []string{logDir, stateDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return 1, err
		}
	}
	cli = filepath.Join(dir, "orrery")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-o", cli, "./cmd/orrery")
	build.Dir = repo
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the command line: %w\n%s", err, out)
	}
	if before, err = lookAtHost(); err != nil {
		return 1, err
	}
	neighboursBefore = others()
	code = m.Run()
	if code == 0 {
		return 0, os.RemoveAll(dir)
	}
	fmt.Fprintln(os.Stderr, "e2e: support archives and state of what failed are in", logDir, "and", stateDir)
	return code, nil
}

// realFileSystem refuses an overlay below which containerd could not make its own.
func realFileSystem(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC || st.Type == unix.RAMFS_MAGIC {
		return fmt.Errorf("%s is on an overlay or in memory: ORRERY_E2E_DIR must name a folder on a disk", dir)
	}
	return nil
}
