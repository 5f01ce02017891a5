package native

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseCgroups(t *testing.T) {
	for _, tc := range []struct {
		name, mountinfo string
		want            cgroups
		v2              bool
	}{
		{"v2", "30 23 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n", cgroups{Unified: "/sys/fs/cgroup"}, true},
		{"v1 beside a unified tree", `
40 39 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
41 39 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
42 39 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
43 39 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
44 39 0:31 / /elsewhere/memory rw - cgroup cgroup rw,memory
45 39 0:31 /a/b /bind rw - cgroup cgroup rw,pids
`, cgroups{Unified: "/sys/fs/cgroup/unified", V1: []hierarchy{
			{"/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"}, {"/sys/fs/cgroup/memory", "memory"}, {"/sys/fs/cgroup/systemd", "none,name=systemd"},
		}}, false},
		{"v2 with systemd's old named hierarchy", `
30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
42 39 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
`, cgroups{Unified: "/sys/fs/cgroup"}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := parseCgroups(strings.NewReader(tc.mountinfo))
			if err != nil || got.Unified != tc.want.Unified || !slices.Equal(got.V1, tc.want.V1) || got.v2() != tc.v2 {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	if _, err := parseCgroups(strings.NewReader("22 1 8:1 / / rw - ext4 /dev/sda rw\n")); err == nil {
		t.Error("no error without control groups")
	}
}

func TestInGroup(t *testing.T) {
	for content, want := range map[string]bool{
		"3:cpu:/orrery/a/server1\n0::/\n":  true,
		"0::/orrery/a\n":                   true,
		"0::/orrery/ab/server1\n":          false,
		"1:name=systemd:/user.slice/x:y\n": false,
		"":                                 false,
	} {
		if got := inGroup(content, "/orrery/a"); got != want {
			t.Errorf("%q: %t", content, got)
		}
	}
}

func TestInnerPID(t *testing.T) {
	for status, want := range map[string]int{"Name:\tetcd\nNSpid:\t4711\t12\n": 12, "NSpid:\t4711\n": 0, "": 0, "NSpid:\tx\ty\n": 0} {
		if got, ok := innerPID(status); got != want || ok != (want != 0) {
			t.Errorf("%q: %d %t", status, got, ok)
		}
	}
}

func TestCreateAndRemove(t *testing.T) {
	c := cgroups{Unified: t.TempDir(), V1: []hierarchy{{t.TempDir(), "memory"}, {t.TempDir(), "none,name=systemd"}}}
	for range 2 { // idempotent
		if err := c.create("/orrery/a/server1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.create("/orrery/ab"); err != nil {
		t.Fatal(err)
	}
	if got := len(c.existing("/orrery/a")); got != 6 {
		t.Errorf("%d groups, want 2 in each of 3 hierarchies", got)
	}
	if err := c.kill(t.Context(), "/orrery/a"); err != nil {
		t.Error(err)
	}
	if err := c.remove(t.Context(), "/orrery/a"); err != nil {
		t.Error(err)
	}
	c.removeEmptyParent("/orrery/a")
	if len(c.existing("/orrery/a")) != 0 || len(c.existing("/orrery/ab")) != 3 {
		t.Errorf("left: %v; of the other: %v", c.existing("/orrery/a"), c.existing("/orrery/ab"))
	}
}

func TestRemoveSaysWhatIsBusy(t *testing.T) {
	c := cgroups{Unified: t.TempDir()}
	busy := c.Unified + "/orrery/a/server1"
	if err := os.MkdirAll(busy+"/kubepods", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(busy+"/in-the-way", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := c.remove(ctx, "/orrery/a")
	if err == nil || !strings.Contains(err.Error(), "/orrery/a") || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if exists(busy + "/kubepods") {
		t.Error("one that is busy kept another from being removed")
	}
}
