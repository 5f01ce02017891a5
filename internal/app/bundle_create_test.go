package app

import "testing"

func TestBundledNetwork(t *testing.T) {
	for plugin, want := range map[string]string{"ptp": "ptp", "cilium": "cilium", "auto": "cilium"} {
		if got := bundledNetwork(plugin); got != want {
			t.Errorf("%s: the bundle is made for %s, want %s", plugin, got, want)
		}
	}
}
