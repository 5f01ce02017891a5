package environment

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/engine"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/spec"
)

// What an environment is made with: decided once, kept, and changed only where it can be in place.

// save keeps what the environment is made with.
func (e *Environment) save() error {
	if e.created.IsZero() {
		e.created = time.Now().UTC().Truncate(time.Second)
	}
	return engine.State{
		Spec: e.Spec, Created: e.created, Ports: e.Spec.Ports, Bundle: e.Location.Bundle(), Skipped: e.Skipped, NetworkReason: e.NetworkReason,
	}.Save(e.StateDir)
}

// decideNetwork turns network.plugin auto into what this machine can run.
func (e *Environment) decideNetwork(ctx context.Context) error {
	kind, err := driver.Lookup(e.Spec.Driver)
	if err != nil {
		return failure.Usage{Err: err}
	}
	if e.Spec.Network.Plugin == spec.PluginAuto && kind.DecideNetwork != nil {
		e.Spec.Network.Plugin, e.NetworkReason = kind.DecideNetwork(ctx, e.compiler())
	}
	return nil
}

// changeable refuses differences that an existing environment cannot take in place.
func changeable(have, want spec.Environment) error {
	refuse := func(field string, from, to any) error {
		return fmt.Errorf("%s of environment %q cannot change from %v to %v in place:"+
			" 'orrery down --env %s' first, or choose another name", field, have.Name, from, to, have.Name)
	}
	var errs []error
	if have.Driver != want.Driver {
		errs = append(errs, refuse("driver", have.Driver, want.Driver))
	}
	if h, w := have.Existing, want.Existing; h != nil && w != nil && (h.Kubeconfig != w.Kubeconfig || h.Context != w.Context) {
		errs = append(errs, refuse("existing", h.Context+" of "+h.Kubeconfig, w.Context+" of "+w.Kubeconfig))
	}
	if h, w := have.K3dImages(), want.K3dImages(); h != w {
		errs = append(errs, refuse("k3d", h, w))
	}
	if have.Servers != want.Servers {
		errs = append(errs, refuse("servers", have.Servers, want.Servers))
	}
	if have.AgentCount() != want.AgentCount() {
		errs = append(errs, refuse("agents", have.AgentCount(), want.AgentCount()))
	}
	if !slices.Equal(have.Zones, want.Zones) {
		errs = append(errs, refuse("zones", have.Zones, want.Zones))
	}
	if have.Network != want.Network {
		errs = append(errs, refuse("network", have.Network, want.Network))
	}
	if have.Durability != want.Durability {
		errs = append(errs, refuse("durability", have.Durability, want.Durability))
	}
	return errors.Join(errs...)
}

// choosePorts picks free ports for those that are left open; they then stay the
// environment's.
func (e *Environment) choosePorts() error {
	if e.Spec.Driver == spec.DriverExisting { // it listens on none
		return nil
	}
	for _, port := range []*int{&e.Spec.Ports.API, &e.Spec.Ports.Registry} {
		if *port != 0 {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("find a free port on 127.0.0.1: %w", err)
		}
		*port = l.Addr().(*net.TCPAddr).Port
		defer l.Close() // both at once, so that they differ
	}
	return nil
}
