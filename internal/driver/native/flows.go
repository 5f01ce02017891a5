package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/orrery-dev/orrery/internal/beneath"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/spec"
)

var _ driver.FlowSource = (*Driver)(nil)

// Flows implements [driver.FlowSource]: each agent's own socket, through the root of the
// node's PID 1. Nothing has to listen on the fabric, and it works while the API is away.
func (d *Driver) Flows(ctx context.Context) (string, []driver.FlowServer, error) {
	if d.cluster.Plugin != spec.PluginCilium {
		return "", nil, fmt.Errorf("%w: flows need network.plugin %s, and environment %q was made with %s, which keeps no record of packets; "+
			"the plugin is chosen when an environment is made", driver.ErrNoFlows, spec.PluginCilium, d.cluster.Environment, d.cluster.Plugin)
	}
	program := filepath.Join(d.paths.distribution(), "hubble")
	if _, err := os.Stat(program); err != nil {
		return "", nil, fmt.Errorf("the node distribution has no hubble: %w; 'orrery up' builds it", err)
	}
	if _, err := supervisorIdentity(d.paths); err != nil {
		return "", nil, fmt.Errorf("flows of environment %q: %w; 'orrery start' starts it", d.cluster.Environment, err)
	}
	status, err := newClient(d.paths).status(ctx)
	if err != nil {
		return "", nil, err
	}
	servers := flowServers(status)
	for _, s := range servers { // a link at that place would lead to a socket of the host
		root, _ := strings.CutSuffix(strings.TrimPrefix(s.Address, "unix://"), hubbleSocket)
		at, err := beneath.Path(root, hubbleSocket)
		if errors.Is(err, beneath.ErrNotRegular) {
			return "", nil, fmt.Errorf("flows of %s: %w", s.Node, err)
		}
		if err == nil { // else its agent is starting
			at.Close()
		}
	}
	return program, servers, nil
}

// flowServers of the nodes that run.
func flowServers(status supervisorStatus) []driver.FlowServer {
	var servers []driver.FlowServer
	for _, m := range status.Nodes {
		if m.Running && m.PID != 0 {
			servers = append(servers, driver.FlowServer{Node: m.Name, Address: fmt.Sprintf("unix:///proc/%d/root%s", m.PID, hubbleSocket)})
		}
	}
	return servers
}
