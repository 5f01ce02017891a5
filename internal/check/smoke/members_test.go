package smoke

import (
	"testing"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/spec"
)

// Where services are processes of this machine, etcd has to be one; where none is, its node
// has to run.
func TestMembersRun(t *testing.T) {
	node := func(running bool, etcd, kubelet int) driver.Observation {
		return driver.Observation{Nodes: []driver.Node{{Name: "server1", Running: running,
			Services: []driver.Service{{Name: "etcd", PID: etcd}, {Name: "kubelet", PID: kubelet}}}}}
	}
	for name, tt := range map[string]struct {
		seen driver.Observation
		ok   bool
	}{
		"runs":               {node(true, 1, 2), true},
		"died":               {node(true, 0, 2), false},
		"elsewhere":          {node(true, 0, 0), true},
		"elsewhere, no node": {node(false, 0, 0), false},
		"nothing seen":       {driver.Observation{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := membersRun([]spec.Node{{Name: "server1"}}, tt.seen); (err == nil) != tt.ok {
				t.Error(err)
			}
		})
	}
}
