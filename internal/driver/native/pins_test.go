package native

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestRepairPins(t *testing.T) {
	all := []string{
		"cilium/devices/eth0/links/cil_from_netdev", "cilium/endpoints/359/links/cil_from_container", "cilium/socketlb/links/cgroup/cil_sock4_connect",
		"tc/globals/cilium_call_policy", "tc/globals/cilium_calls_hostns_03044", "tc/globals/cilium_calls_netdev_00002", "tc/globals/cilium_events",
		"tc/globals/cilium_ipcache_v2", "tc/globals/cilium_lxc", "tc/globals/cilium_metrics", "tc/globals/cilium_calls_00340",
	}
	without := func(gone ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(p string) bool {
			return slices.ContainsFunc(gone, func(g string) bool { ok, _ := filepath.Match(g, p); return ok })
		})
	}
	for _, tc := range []struct {
		name    string
		pins    []string
		missing []string
	}{
		{"a new node", nil, nil},
		{"everything in its place", all, nil},
		{"an endpoint's map is the agent's business", without("tc/globals/cilium_calls_00340"), nil},
		{"maps but no programs", without("cilium/*/*/*/*", "cilium/*/*/*"), nil},
		{"no maps", without("tc/globals/*"), requiredPins},
		{"one map is gone", without("tc/globals/cilium_calls_hostns_*"), []string{"cilium_calls_hostns_*"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, p := range append(tc.pins, "maps.debug") {
				f := filepath.Join(dir, p)
				if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(f, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			missing, err := repairPins(dir)
			if err != nil || !slices.Equal(missing, tc.missing) {
				t.Fatalf("%v, %v, want %v", missing, err, tc.missing)
			}
			for _, p := range tc.pins {
				if want := tc.missing == nil; exists(filepath.Join(dir, p)) != want {
					t.Errorf("%s there: %t, want %t", p, !want, want)
				}
			}
		})
	}
}
