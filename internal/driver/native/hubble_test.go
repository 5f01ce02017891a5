package native

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/orrery-dev/orrery/internal/driver"
)

func TestHubbleConfig(t *testing.T) {
	config := hubbleConfig(node{Address: netip.MustParseAddr("10.89.0.21")})
	if config["hubble-metrics-server"] != "10.89.0.21:9965" {
		t.Error(config["hubble-metrics-server"])
	}
	if _, listens := config["hubble-listen-address"]; listens {
		t.Error("flows can be read over the fabric")
	}
	for _, m := range strings.Fields(config["hubble-metrics"]) {
		if name, _, _ := strings.Cut(m, ":"); !strings.Contains(" drop flow policy tcp dns icmp port-distribution ", " "+name+" ") {
			t.Errorf("metric %q", m)
		}
	}
}

func TestFlows(t *testing.T) {
	status := supervisorStatus{Nodes: []machineStatus{{Name: "server1", Running: true, PID: 77}, {Name: "agent1"}}}
	want := []driver.FlowServer{{Node: "server1", Address: "unix:///proc/77/root/run/cilium/hubble.sock"}}
	if d := cmp.Diff(want, flowServers(status)); d != "" {
		t.Error(d)
	}
	d := &Driver{paths: paths(t.TempDir()), cluster: cluster{Environment: "x", Plugin: "ptp"}}
	if _, _, err := d.Flows(context.Background()); !errors.Is(err, driver.ErrNoFlows) || !strings.Contains(err.Error(), "network.plugin cilium") {
		t.Errorf("ptp: %v", err)
	}
	d.cluster.Plugin = "cilium"
	if _, _, err := d.Flows(context.Background()); err == nil || !strings.Contains(err.Error(), "has no hubble") {
		t.Errorf("no hubble: %v", err)
	}
	program := filepath.Join(d.paths.distribution(), "hubble")
	if err := os.MkdirAll(filepath.Dir(program), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Flows(context.Background()); !errors.Is(err, errNoSupervisor) || !strings.Contains(err.Error(), "orrery start") {
		t.Errorf("stopped: %v", err)
	}
}
