package app

import (
	"context"
	"errors"
	"time"

	"github.com/orrery-dev/orrery/internal/driver/native"
	"github.com/orrery-dev/orrery/internal/spec"
)

// decisionTime bounds the look at the host that decides about network.plugin auto.
const decisionTime = 30 * time.Second

// decideNetwork turns network.plugin auto into what this machine can run. It is done once:
// pods of an existing environment cannot be taken from one plugin to another.
func (s *session) decideNetwork(ctx context.Context, have *spec.Environment) {
	if s.spec.Network.Plugin != spec.PluginAuto {
		return
	}
	if have != nil {
		s.spec.Network.Plugin = have.Network.Plugin
		return
	}
	ctx, cancel := context.WithTimeout(ctx, decisionTime)
	defer cancel()
	s.spec.Network.Plugin = spec.PluginCilium
	if lacks := native.BPF(ctx, s.compiler()); len(lacks) > 0 {
		s.spec.Network.Plugin = spec.PluginPTP
		s.networkReason = "ptp instead of cilium: " + errors.Join(lacks...).Error()
	}
}
