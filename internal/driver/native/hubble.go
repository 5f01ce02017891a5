package native

import (
	"fmt"
	"strings"
)

// hubbleSocket is where a node's agent serves its flows to whoever is root on the node. It
// listens nowhere else: nobody on the fabric can read what others say to each other.
const hubbleSocket = ciliumRun + "/hubble.sock"

// hubbleEnds makes the ends of a flow labels of a metric: the workload of a pod, else what
// the other end is, such as host or world. Pods would make a series each and die with it.
const hubbleEnds = "sourceContext=workload|reserved-identity;destinationContext=workload|reserved-identity"

// hubbleConfig are the agent's options about flows.
func hubbleConfig(n node) map[string]string {
	return map[string]string{
		"enable-hubble":      "true",
		"hubble-socket-path": hubbleSocket,
		// One less than a power of two; about 3 MB, and a few minutes of a node that is busy.
		"hubble-event-buffer-capacity": "4095",
		"hubble-metrics-server":        fmt.Sprintf("%s:%d", n.Address, hubbleMetrics),
		"hubble-metrics": strings.Join([]string{
			"drop:" + hubbleEnds, "flow:" + hubbleEnds, "policy:" + hubbleEnds,
			"tcp:" + hubbleEnds, "dns:" + hubbleEnds, "icmp", "port-distribution",
		}, " "),
	}
}
