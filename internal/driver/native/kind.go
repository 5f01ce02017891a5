package native

import (
	"context"
	"errors"
	"time"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/spec"
)

// decisionTime bounds the look at the host that decides about network.plugin auto.
const decisionTime = 30 * time.Second

// Kind is this driver as orrery.yaml knows it.
func Kind() driver.Kind {
	return driver.Kind{
		Name:          "native",
		Capabilities:  driver.Capabilities{Root: true, Distribution: true, Mirror: true, Nodes: true, Addresses: true, NodeFaults: true},
		HostPrograms:  packages,
		New:           func(o driver.Options) (driver.Driver, error) { return New(o) },
		DecideNetwork: decideNetwork,
	}
}

// decideNetwork prefers Cilium.
func decideNetwork(ctx context.Context, compiler driver.Compiler) (plugin, reason string) {
	ctx, cancel := context.WithTimeout(ctx, decisionTime)
	defer cancel()
	if lacks := missingForBPF(ctx, compiler); len(lacks) > 0 {
		return spec.PluginPTP, "ptp instead of cilium: " + errors.Join(lacks...).Error()
	}
	return spec.PluginCilium, ""
}

// Dist implements [driver.Distributor].
func (d *Driver) Dist() driver.Dist { return driver.Dist(d.paths.join("dist")) }
