package native

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHostBounds(t *testing.T) {
	for _, c := range []struct {
		name, meminfo, pidMax string
		want                  bounds
	}{
		{"big", "MemFree: 1 kB\nMemTotal:       33554432 kB\n", "4194304\n", bounds{30 << 30, 3145728}},
		{"small", "MemTotal: 4194304 kB\n", "32768", bounds{4<<30 - 512<<20, 24576}},
		{"tiny", "MemTotal: 524288 kB\n", "32768", bounds{256 << 20, 24576}},
		{"nothing is known", "", "many", bounds{}},
		{"no number", "MemTotal: x kB\n", "-1", bounds{}},
	} {
		if got := hostBounds(c.meminfo, c.pidMax); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestBound(t *testing.T) {
	file := func(elem ...string) string {
		path := filepath.Join(elem...)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	is := func(path, want string) {
		t.Helper()
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v, want %q", path, got, err, want)
		}
	}
	old := cgroups{V1: []hierarchy{{t.TempDir(), "cpu,memory"}, {t.TempDir(), "pids"}}}
	memory, pids := file(old.V1[0].Mount, "g", "memory.limit_in_bytes"), file(old.V1[1].Mount, "g", "pids.max")
	if err := old.bound("/g", bounds{7, 8}); err != nil {
		t.Error(err)
	}
	is(memory, "7")
	is(pids, "8")

	unified := cgroups{Unified: t.TempDir()}
	memory = file(unified.Unified, "g", "memory.max")
	if err := unified.bound("/g", bounds{7, 8}); err == nil || !strings.Contains(err.Error(), "controller pids was not given to /g") {
		t.Errorf("without a controller: %v", err)
	}
	is(memory, "7")
	if err := unified.bound("/g", bounds{}); err != nil {
		t.Errorf("nothing to set: %v", err)
	}
}
