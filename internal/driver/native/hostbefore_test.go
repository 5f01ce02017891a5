package native

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// With the last environment the host gets back what it had, and not before.
func TestHostIsRestored(t *testing.T) {
	cg, err := hostCgroups()
	if err != nil || os.Geteuid() != 0 {
		t.Skipf("needs root and control groups: %v", err)
	}
	cg = cgroups{V1: cg.V1[:min(1, len(cg.V1))], Unified: cg.Unified}
	parent := fmt.Sprintf("/orrery-test-%d", os.Getpid())
	one, two := parent+"/one", parent+"/two"
	t.Cleanup(func() { _ = cg.remove(context.Background(), parent) })
	if err := cg.noteBefore(one, t.TempDir()); err != nil {
		t.Skipf("cannot make a control group here: %v", err)
	}
	if _, ok := cg.before(one); !ok {
		var b [10]byte
		if _, err := unix.Getxattr(filepath.Join(cg.mounts()[0], parent), beforeAttribute, b[:]); err == unix.ENOTSUP {
			t.Skip("control groups have no extended attributes here")
		}
		t.Fatal("nothing was noted")
	}
	for _, g := range []string{one, two} {
		if err := cg.create(g); err != nil {
			t.Fatal(err)
		}
	}
	// What the second environment finds is not how the host was.
	apparmor := t.TempDir()
	if err := os.WriteFile(filepath.Join(apparmor, "profiles"), []byte(profile+" (enforce)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cg.noteBefore(two, apparmor); err != nil {
		t.Fatal(err)
	}
	if h, ok := cg.before(two); !ok || h.AppArmor {
		t.Errorf("%+v, %t", h, ok)
	}
	if err := cg.remove(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if cg.removeEmptyParent(one) {
		t.Error("the common group went with the first of two")
	}
	if err := cg.remove(t.Context(), two); err != nil {
		t.Fatal(err)
	}
	if !cg.removeEmptyParent(two) {
		t.Error("the common group stays")
	}
}

func TestRestore(t *testing.T) {
	root, apparmor := t.TempDir(), t.TempDir()
	write := func(dir, name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(dir, name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	cg := cgroups{Unified: root}
	write(root, "cgroup.subtree_control", "memory pids\n")
	if got := cg.controllersGiven(); !slices.Equal(got, []string{"memory", "pids"}) {
		t.Errorf("given %q", got)
	}
	write(apparmor, "profiles", "docker-default (enforce)\n"+profile+" (enforce)\n")
	write(apparmor, ".remove", "")
	cg.restore(hostBefore{Controllers: []string{"memory", "pids"}, AppArmor: true}, apparmor, modules{})
	if got := read(root, "cgroup.subtree_control"); got != "memory pids" {
		t.Errorf("what was there before is taken away: %q", got)
	}
	if got := read(apparmor, ".remove"); got != "" {
		t.Errorf("a profile of somebody else is removed: %q", got)
	}
	cg.restore(hostBefore{Controllers: []string{"memory"}}, apparmor, modules{})
	if got := read(root, "cgroup.subtree_control"); !strings.HasPrefix(got, "-pids") { // the file is no real one
		t.Errorf("wrote %q", got)
	}
	if got := read(apparmor, ".remove"); got != profile {
		t.Errorf("wrote %q", got)
	}
	attr := filepath.Join(root, "12", "attr")
	if err := os.MkdirAll(attr, 0o700); err != nil {
		t.Fatal(err)
	}
	write(attr, "current", profile+" (enforce)\n")
	if !profileUsed(root) || profileUsed(apparmor) {
		t.Error("who is confined by a profile is not seen")
	}
}
