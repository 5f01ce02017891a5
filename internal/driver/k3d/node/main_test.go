package node

import (
	"slices"
	"testing"

	"github.com/orrery-dev/orrery/internal/driver/native"
)

// TestLines: every node says each line that k3d may wait for, once; a server that joins does not keep the next
// one waiting for its API.
func TestLines(t *testing.T) {
	all := []native.Milestone{native.MilestoneRuntime, native.MilestoneServer, native.MilestoneRegistered, native.MilestoneReady}
	const runtime, server, registered, ready = "Containerd is now running", "Running kube-apiserver", "Successfully registered node", "k3s is up and running"
	for joins, want := range map[bool][]string{
		false: {runtime, server, registered, ready}, true: {runtime, server, ready, registered},
	} {
		var got []string
		for _, m := range all {
			got = append(got, lines(m, joins)...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("joins %v: %q, want %q", joins, got, want)
		}
	}
}
