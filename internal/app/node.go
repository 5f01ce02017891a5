package app

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newNode(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "node",
		Short: "List nodes, or stop, start and kill one",
	}
	c.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "The nodes, their services and how often those were restarted",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return listNodes(c.Context(), o) },
	})
	for _, v := range []struct {
		name, short string
		do          func(driver.NodeController, context.Context, string) error
	}{
		{"stop", "Shut a node down; it stays down until 'node start'", driver.NodeController.StopNode},
		{"start", "Start a node that was stopped", driver.NodeController.StartNode},
		{"kill", "Cut a node's power; it comes back by itself", driver.NodeController.KillNode},
	} {
		c.AddCommand(&cobra.Command{
			Use:               v.name + " NODE",
			Short:             v.short,
			Args:              cobra.ExactArgs(1),
			ValidArgsFunction: o.completeNodes,
			RunE: func(c *cobra.Command, args []string) error {
				s, err := o.attachExisting()
				if err != nil {
					return err
				}
				nodes, ok := s.driver.(driver.NodeController)
				if !ok {
					return fmt.Errorf("the %s driver cannot %s single nodes", s.spec.Driver, v.name)
				}
				if err := s.knownNode(args[0]); err != nil {
					return err
				}
				if err := v.do(nodes, c.Context(), args[0]); err != nil {
					return fmt.Errorf("%s node %s: %w", v.name, args[0], err)
				}
				return nil
			},
		})
	}
	return c
}

func (s *session) nodeNames() []string {
	var names []string
	for _, n := range s.spec.Topology() {
		names = append(names, n.Name)
	}
	return names
}

func (s *session) knownNode(name string) error {
	if names := s.nodeNames(); !slices.Contains(names, name) {
		return usagef("environment %q has no node %q: want one of %v", s.spec.Name, name, names)
	}
	return nil
}

func listNodes(ctx context.Context, o *options) error {
	s, err := o.attachExisting()
	if err != nil {
		return err
	}
	obs, err := s.observe(ctx)
	if err != nil {
		return err
	}
	if o.json() {
		return printJSON(o.out, append([]driver.Node{}, obs.Nodes...))
	}
	rows := [][]string{}
	for _, n := range obs.Nodes {
		state := "running"
		switch {
		case n.Stopped:
			state = "stopped"
		case !n.Running:
			state = "down"
		}
		restarts := 0
		for _, svc := range n.Services {
			restarts += svc.Restarts
		}
		rows = append(rows, []string{n.Name, string(n.Role), n.Zone, n.Rack, n.Address, n.PodCIDR, state, fmt.Sprint(len(n.Services)), fmt.Sprint(restarts)})
	}
	return ui.Table(o.out, []string{"NODE", "ROLE", "ZONE", "RACK", "ADDRESS", "PODS", "STATE", "SERVICES", "RESTARTS"}, rows)
}

func (o *options) completeNodes(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	s, err := o.attach(ui.Discard)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return s.nodeNames(), cobra.ShellCompDirectiveNoFileComp
}
