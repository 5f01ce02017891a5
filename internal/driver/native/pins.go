package native

import (
	"errors"
	"os"
	"path/filepath"
)

// attachedPins are links to programs that see packets or connections of the node; requiredPins
// are maps without which those programs drop what they see: a program jumps to its other parts
// through a map whose entries go when nobody holds the map any more.
var (
	attachedPins = []string{"cilium/devices/*/links/*", "cilium/endpoints/*/links/*", "cilium/socketlb/links/cgroup/*"}
	requiredPins = []string{
		"cilium_call_policy", "cilium_calls_hostns_*", "cilium_calls_netdev_*", "cilium_events",
		"cilium_ipcache*", "cilium_lxc", "cilium_metrics",
	}
)

// repairPins lets go of everything that is pinned below dir, a bpf file system, when programs
// are attached and maps that they need are gone, and says which. The node cannot reach the API
// then, so that an agent could never put it right; without programs it can, and the agent
// begins as on a new node. Nothing is touched while everything is in its place.
func repairPins(dir string) (missing []string, err error) {
	attached := false
	for _, pattern := range attachedPins {
		found, err := filepath.Glob(filepath.Join(dir, filepath.FromSlash(pattern)))
		if err != nil {
			return nil, err
		}
		attached = attached || len(found) > 0
	}
	if !attached {
		return nil, nil
	}
	for _, pattern := range requiredPins {
		found, err := filepath.Glob(filepath.Join(dir, "tc", "globals", pattern))
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			missing = append(missing, pattern)
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	for _, sub := range []string{"cilium", "tc"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, sub)))
	}
	return missing, err
}
