package k3d

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/kube"
)

// seen is what the engine has of an environment.
type seen struct {
	nodes  map[string]container // k3d's nodes with the load balancer, by name
	mirror *container
	theirs bool // a cluster of that name that is not ours
}

// look asks the engine. id is the environment's, "" when it has none.
func (d *Driver) look(ctx context.Context, id string) (seen, error) {
	s := seen{nodes: map[string]container{}}
	list, err := d.engine.containers(ctx, labelCluster+"="+clusterName(d.Spec.Name))
	if err != nil {
		return s, err
	}
	for _, c := range list {
		s.nodes[c.name()] = c
		if role := c.Labels[labelRole]; (role == "server" || role == "agent") && (id == "" || c.Labels[labelID] != id) {
			s.theirs = true
		}
	}
	if id == "" {
		return s, nil
	}
	mirrors, err := d.engine.containers(ctx, labelID+"="+id)
	for _, c := range mirrors {
		if c.name() == mirrorName(d.Spec.Name) {
			s.mirror = &c
		}
	}
	return s, err
}

// Observe implements [driver.Driver].
func (d *Driver) Observe(ctx context.Context) (driver.Observation, error) {
	o := driver.Observation{Phase: driver.PhaseAbsent}
	m, known, err := d.remembered()
	if err != nil || !known {
		return o, err
	}
	s, err := d.look(ctx, m.ID)
	if err != nil {
		return o, err
	}
	o.Phase = driver.PhasePartial
	o.Endpoints = map[string]string{driver.EndpointAPI: d.api(), driver.EndpointRegistry: d.Mirror().Address}
	if _, err := os.Stat(d.kubeconfig()); err == nil {
		o.Kubeconfig = d.kubeconfig()
	}
	if !m.Made || s.theirs {
		return o, nil
	}
	d.learnRanges(ctx, &m)
	running, stopped := 0, 0
	for _, p := range places(d.Spec) {
		c, ok := s.nodes[p.name]
		n := driver.Node{
			Name: p.node.Name, Role: driver.Role(p.node.Role), Zone: p.node.Zone, Rack: p.node.Rack,
			Address: m.Addresses[p.name], PodCIDR: m.Ranges[p.node.Name],
			Running: ok && c.State == "running", Stopped: slices.Contains(m.Stopped, p.name),
		}
		if n.Running {
			running++
			n.Services = d.services(ctx, c.ID)
			n.Address = cmp.Or(c.Networks.Networks[networkName(d.Spec.Name)].IPAddress, n.Address)
		} else if n.Stopped {
			stopped++
		}
		o.Nodes = append(o.Nodes, n)
	}
	balancer := s.nodes[balancerName(d.Spec.Name)].State == "running"
	mirrors := s.mirror != nil && s.mirror.State == "running"
	switch {
	case running+stopped == len(o.Nodes) && running > 0 && balancer && mirrors:
		o.Phase = driver.PhaseRunning
	case running == 0 && !balancer && !mirrors && len(s.nodes) > 0:
		o.Phase = driver.PhaseStopped
	}
	return o, nil
}

// nodeService is what runs in a node, as a whole.
const nodeService = "k3s"

// services of a node that runs: the node as a whole, with how often it was started again though
// nobody asked, and the processes that it began, by the engine's list.
func (d *Driver) services(ctx context.Context, id string) []driver.Service {
	var c struct{ RestartCount int }
	var top processes
	if d.engine.call(ctx, http.MethodGet, "/containers/"+id+"/json", nil, &c) != nil ||
		d.engine.call(ctx, http.MethodGet, "/containers/"+id+"/top", nil, &top) != nil {
		return nil
	}
	return top.services(c.RestartCount)
}

// processes of a container as engines list them, with ps of the machine that they are on.
type processes struct {
	Titles    []string
	Processes [][]string
}

// services are the program of a node and what it began; pods are below others.
func (p processes) services(restarts int) []driver.Service {
	pid, parent := slices.Index(p.Titles, "PID"), slices.Index(p.Titles, "PPID")
	command := slices.IndexFunc(p.Titles, func(t string) bool { return t == "CMD" || t == "COMMAND" })
	if min(pid, parent, command) < 0 {
		return nil
	}
	program := func(line []string) string {
		first, _, _ := strings.Cut(line[command], " ")
		return path.Base(first)
	}
	rows := slices.DeleteFunc(slices.Clone(p.Processes), func(line []string) bool { return len(line) <= max(pid, parent, command) })
	at := slices.IndexFunc(rows, func(line []string) bool { return program(line) == nodeService })
	if at < 0 {
		return nil
	}
	node := rows[at][pid]
	var services []driver.Service
	for _, line := range rows {
		n, err := strconv.Atoi(line[pid])
		switch {
		case err != nil:
		case line[pid] == node:
			services = append(services, driver.Service{Name: nodeService, PID: n, Restarts: restarts})
		case line[parent] == node:
			services = append(services, driver.Service{Name: program(line), PID: n})
		}
	}
	return services
}

// learnRanges asks the API which addresses pods of nodes have, once.
func (d *Driver) learnRanges(ctx context.Context, m *memory) {
	if len(m.Ranges) == len(places(d.Spec)) {
		return
	}
	client, err := kube.Connect(d.kubeconfig(), kube.WithLog(d.Log))
	if err != nil {
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	nodes, err := client.List(ctx, "v1", "Node", "", "")
	if err != nil {
		return
	}
	m.Ranges = map[string]string{}
	for _, n := range nodes {
		if s, ok := n.Object["spec"].(object); ok {
			if r, ok := s["podCIDR"].(string); ok {
				m.Ranges[n.GetName()] = r
			}
		}
	}
	if err := d.remember(*m); err != nil {
		d.Log.Debug("ranges of pods", "error", err)
	}
}
