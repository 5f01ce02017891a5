package k3d

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/spec"
)

// networkName is what k3d calls the network of an environment.
func networkName(environment string) string { return "k3d-" + clusterName(environment) }

// balancerName is what k3d calls the load balancer before the API.
func balancerName(environment string) string { return "k3d-" + clusterName(environment) + "-serverlb" }

// mirrorAddress is the last one of the range, which nodes do not come to: started before them, the mirror
// would take one of theirs.
func mirrorAddress(e spec.Environment) netip.Addr { return fromTheEnd(e, 1) }

// ownAddresses are of the containers that k3d gives none: they go down from the mirror's, servers' up from
// the beginning.
func ownAddresses(e spec.Environment) map[string]netip.Addr {
	a := map[string]netip.Addr{balancerName(e.Name): fromTheEnd(e, 2)}
	for i := range e.AgentCount() {
		a[nodeName(e.Name, spec.RoleAgent, i)] = fromTheEnd(e, uint32(3+i)) //nolint:gosec // less than fifty
	}
	return a
}

// fromTheEnd counts back from the range's last address, which is for all.
func fromTheEnd(e spec.Environment, n uint32) netip.Addr {
	p := netip.MustParsePrefix(e.Network.Nodes).Masked() // a valid spec has one
	a := p.Addr().As4()
	last := binary.BigEndian.Uint32(a[:]) | (1<<(32-p.Bits()) - 1)
	binary.BigEndian.PutUint32(a[:], last-n)
	return netip.AddrFrom4(a)
}

// connect gives a container that does not run an address in the cluster's network, in place of what it had.
func (d *Driver) connect(ctx context.Context, c, address string) error {
	network := "/networks/" + networkName(d.Spec.Name)
	err := d.engine.call(ctx, http.MethodPost, network+"/disconnect", object{"Container": c, "Force": true}, nil)
	if err != nil && !strings.Contains(err.Error(), "is not connected") {
		return fmt.Errorf("address of %s: %w", c, err)
	}
	if err := d.engine.call(ctx, http.MethodPost, network+"/connect", object{
		"Container": c, "EndpointConfig": object{"IPAMConfig": object{"IPv4Address": address}},
	}, nil); err != nil {
		return fmt.Errorf("address of %s: %w", c, err)
	}
	return nil
}

// pin gives the containers that k3d gives no address one of their own, between their making and their
// start. Without it an engine that starts again by itself gives them what is free at that moment: one of
// them would have a server's before that server has begun.
func (d *Driver) pin(ctx context.Context, id string) error {
	left := ownAddresses(d.Spec)
	return check.Until(ctx, check.Pause{First: 50 * time.Millisecond, Most: 200 * time.Millisecond}, func() error {
		s, err := d.look(ctx, id)
		if err != nil {
			return err
		}
		for name, address := range left {
			c, ok := s.nodes[name]
			if !ok {
				continue
			}
			if err := d.move(ctx, c, address.String()); err != nil {
				return err
			}
			delete(left, name)
		}
		if len(left) > 0 {
			return errors.New("k3d has not made all containers")
		}
		return nil
	})
}

// move gives a container another address, for which one that runs already is stopped.
func (d *Driver) move(ctx context.Context, c container, address string) error {
	if err := d.stopContainer(ctx, c); err != nil {
		return err
	}
	if err := d.connect(ctx, c.name(), address); err != nil {
		return err
	}
	if c.State != "running" {
		return nil
	}
	return d.startContainer(ctx, c)
}

// connectMirror puts the mirror where nodes find it by name.
func (d *Driver) connectMirror(ctx context.Context) error {
	err := d.engine.call(ctx, http.MethodPost, "/networks/"+networkName(d.Spec.Name)+"/connect", object{
		"Container": mirrorName(d.Spec.Name), "EndpointConfig": object{"IPAMConfig": object{"IPv4Address": mirrorAddress(d.Spec).String()}},
	}, nil)
	if err != nil && !strings.Contains(err.Error(), "already exists") {
		return fmt.Errorf("connect the mirror to the nodes: %w", err)
	}
	return nil
}

// mendNetwork makes the cluster's network anew when somebody removed it, which engines allow while nothing
// runs, and gives everybody the address that it had.
func (d *Driver) mendNetwork(ctx context.Context, m memory, s seen) error {
	name := networkName(d.Spec.Name)
	err := d.engine.call(ctx, http.MethodGet, "/networks/"+name, nil, nil)
	if !isGone(err) {
		return err
	}
	d.Log.Warn("the cluster's network was removed, and is made anew", "network", name)
	gateway := netip.MustParsePrefix(d.Spec.Network.Nodes).Masked().Addr().Next() // as k3d has it
	if err := d.engine.call(ctx, http.MethodPost, "/networks/create", object{
		"Name": name, "CheckDuplicate": true, "Driver": "bridge", "Labels": object{"app": "k3d"},
		"IPAM": object{"Config": []object{{"Subnet": d.Spec.Network.Nodes, "Gateway": gateway.String()}}},
	}, nil); err != nil {
		return fmt.Errorf("make network %s, which somebody removed, anew: %w", name, err)
	}
	for name := range s.nodes {
		if a := m.Addresses[name]; a != "" {
			if err := d.connect(ctx, name, a); err != nil {
				return err
			}
		}
	}
	if s.mirror != nil {
		return d.connect(ctx, s.mirror.name(), mirrorAddress(d.Spec).String())
	}
	return nil
}
