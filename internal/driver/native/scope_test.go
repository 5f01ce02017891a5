package native

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestUnifiedGroup(t *testing.T) {
	for content, want := range map[string]string{
		"0::/system.slice/orrery-a.scope\n":          "/system.slice/orrery-a.scope",
		"4:cpu:/orrery/a\n1:name=systemd:/x\n0::/\n": "/",
		"4:cpu:/orrery/a\n":                          "",
	} {
		if got := unifiedGroup(content); got != want {
			t.Errorf("%q: %q", content, got)
		}
	}
}

func TestEnterScope(t *testing.T) {
	v2 := cgroups{Unified: "/nowhere"}
	for _, tc := range []struct {
		name   string
		cg     cgroups
		booted bool
		err    error
		want   string
		asked  bool
		warned bool
	}{
		{"systemd and v2", v2, true, nil, "/system.slice/orrery-a.scope", true, false},
		{"no systemd", v2, false, nil, "", false, false},
		{"v1", cgroups{V1: []hierarchy{{"/c/m", "memory"}}}, true, nil, "", false, false},
		{"no bus", v2, true, errors.New("no D-Bus"), "", true, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var asked []string
			group := "/user.slice"
			s := scopes{here: func() bool { return tc.booted }, group: func() string { return group },
				run: func(_ context.Context, program string, args ...string) error {
					asked = append([]string{program}, args...)
					if tc.err == nil {
						group = "/system.slice/orrery-a.scope"
					}
					return tc.err
				}}
			var log strings.Builder
			got := s.enter(t.Context(), tc.cg, "a", slog.New(slog.NewTextHandler(&log, nil)))
			if got != tc.want || (asked != nil) != tc.asked || (log.Len() > 0) != tc.warned {
				t.Errorf("group %q, asked %q, log %s", got, asked, log.String())
			}
			if tc.asked && (!slices.Contains(asked, "Delegate") || !slices.Contains(asked, "orrery-a.scope")) {
				t.Errorf("asked for %q", asked)
			}
		})
	}
}

// What is above the scope is systemd's: no controller is given there.
func TestNothingIsGivenAboveTheScope(t *testing.T) {
	root := t.TempDir()
	scope := filepath.Join(root, "system.slice", "orrery-a.scope")
	if err := os.MkdirAll(scope, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{root, filepath.Dir(scope), scope} {
		for name, content := range map[string]string{"cgroup.controllers": "memory", "cgroup.subtree_control": ""} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := cgroups{Unified: root, Scope: "/system.slice/orrery-a.scope"}
	if err := c.create(c.root("a") + "/server1"); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{root: "", filepath.Dir(scope): "", scope: "+memory"} {
		if b, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control")); err != nil || string(b) != want {
			t.Errorf("%s: given %q, want %q (%v)", dir, b, want, err)
		}
	}
	if !exists(filepath.Join(scope, "server1")) {
		t.Error("the node's group is not in the scope")
	}
}

// A scope that still has a process in itself would become one of threads.
func TestAGroupWithProcessesHandsNothingOn(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"empty", map[string]string{"cgroup.type": "domain", "cgroup.procs": ""}, "+pids"},
		{"with processes", map[string]string{"cgroup.type": "domain", "cgroup.procs": "12\n"}, ""},
		{"the root", map[string]string{"cgroup.procs": "1\n"}, "+pids"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			tc.files["cgroup.controllers"], tc.files["cgroup.subtree_control"] = "pids", ""
			for name, content := range tc.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			delegate(dir)
			if b, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control")); err != nil || string(b) != tc.want {
				t.Errorf("given %q, want %q (%v)", b, tc.want, err)
			}
		})
	}
}

// An environment is found and cleared wherever its groups are.
func TestClearBothRoots(t *testing.T) {
	c := cgroups{Unified: t.TempDir()}
	for _, g := range []string{"/orrery/a", "/system.slice/orrery-a.scope/server1", "/system.slice/orrery-ab.scope", "/system.slice/ssh.service"} {
		if err := os.MkdirAll(filepath.Join(c.Unified, g), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var asked []string
	s := scopes{here: func() bool { return true }, run: func(_ context.Context, program string, args ...string) error {
		asked = append([]string{program}, args...)
		return nil
	}}
	if err := s.clear(t.Context(), c, "a"); err != nil {
		t.Fatal(err)
	}
	if left := c.existing(cgroupRoots("a")...); len(left) > 0 {
		t.Errorf("left %q", left)
	}
	if !exists(filepath.Join(c.Unified, "system.slice/orrery-ab.scope")) || !exists(filepath.Join(c.Unified, "system.slice/ssh.service")) {
		t.Error("groups of others are gone")
	}
	if !slices.Contains(asked, "orrery-a.scope") {
		t.Errorf("systemd was not told: %q", asked)
	}
}
