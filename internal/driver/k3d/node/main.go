package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/driver/k3d/contract"
	"github.com/orrery-dev/orrery/internal/driver/native"
)

// What k3d looks for in the log, in any line and any case (k3d v5.9: pkg/types/k3slogs.go). The
// last line of a node that ends for good says level=fatal, so that k3d tells it.
var said = map[native.Milestone]string{
	native.MilestoneRuntime:    "Containerd is now running",
	native.MilestoneServer:     "Running kube-apiserver",
	native.MilestoneRegistered: "Successfully registered node",
	native.MilestoneReady:      "k3s is up and running",
}

// lines are what a node says when it has reached m. k3d starts one node after the other, each when the one
// before it is up. A server that joins says so as soon as it has begun, so that the next comes up beside it:
// who was let in is a member, and members are added one at a time anyway.
func lines(m native.Milestone, joins bool) []string {
	switch {
	case joins && m == native.MilestoneServer:
		return []string{said[m], said[native.MilestoneReady]}
	case joins && m == native.MilestoneReady:
		return nil
	}
	return []string{said[m]}
}

const (
	state = "/var/lib/orrery" // in the image, below a volume
	// grace is less than what engines give a container that they stop (10 s).
	grace = 6 * time.Second
)

// Main runs the node and returns the exit code.
func Main(args []string, out io.Writer) int {
	switch {
	case len(args) > 0 && args[0] == "proxy":
		return Proxy(out)
	case len(args) > 0 && args[0] == "tools":
		return Tools(args[1:], out)
	case len(args) > 0 && args[0] == "mirror":
		return Mirror(strings.Split(os.Getenv(contract.MirrorNames), ","), out)
	}
	log := slog.New(slog.NewTextHandler(out, nil))
	if err := run(args, out, log); err != nil {
		fmt.Fprintf(out, "level=fatal msg=%q\n", err.Error())
		return 1
	}
	return 0
}

func run(args []string, out io.Writer, log *slog.Logger) error {
	a, err := parse(args)
	if err != nil {
		return err
	}
	if err := native.OwnGroups(); err != nil {
		return err
	}
	name := a.name
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return err
		}
	}
	address, err := ownAddress()
	if err != nil {
		return err
	}
	join, err := joinHost(os.Getenv("K3S_URL"))
	if err != nil {
		return err
	}
	hosts, err := readRegistries(registriesFile)
	if err != nil {
		return err
	}
	c := native.Contained{
		Environment: "k3d", State: state, Name: name, Address: address, Server: a.server, Names: a.names,
		Pods: a.pods, Services: a.services, DNS: a.dns, Unconnected: a.unconnected, Unproxied: a.unproxied,
		Join: join, Token: os.Getenv("K3S_TOKEN"), Hosts: hosts, Grace: grace, Log: log, Sandbox: a.sandbox,
	}
	c.Zone, c.Rack, c.Labels = a.place(name)
	c.Tell = func(m native.Milestone) {
		if m == native.MilestoneServer {
			if err := writeKubeconfigs(c.Kubeconfig()); err != nil {
				log.Error("kubeconfig", "error", err)
			}
		}
		for _, line := range lines(m, a.server && join != "") {
			log.Info(line)
		}
	}
	if a.server && join == "" && a.clusterInit {
		log.Info("the first of several servers")
	}
	return c.Run(context.Background())
}

// ownAddress is the first that others reach this container at.
func ownAddress() (netip.Addr, error) {
	link, err := net.InterfaceByName("eth0")
	if err != nil {
		return netip.Addr{}, fmt.Errorf("eth0 of the container: %w", err)
	}
	addresses, err := link.Addrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("eth0 of the container has no IPv4 address")
}

// writeKubeconfigs puts the administrator's kubeconfig where k3d looks for it, with the names that
// k3d expects, and where kubectl does in this container.
func writeKubeconfigs(from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	b = bytes.ReplaceAll(b, []byte("orrery-k3d"), []byte("default"))
	paths := []string{"/etc/rancher/k3s/k3s.yaml", "/root/.kube/config"}
	if p := os.Getenv("K3S_KUBECONFIG_OUTPUT"); p != "" {
		paths = append(paths, p)
	}
	for _, p := range paths {
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(p, b, 0o600); err != nil {
			return err
		}
	}
	return nil
}
