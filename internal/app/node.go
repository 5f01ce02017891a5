package app

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/environment"
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
		g := grace{driver.DefaultGrace, false}
		one := &cobra.Command{
			Use:               v.name + " NODE",
			Short:             v.short,
			Args:              cobra.ExactArgs(1),
			ValidArgsFunction: o.completeNodes,
			RunE: func(c *cobra.Command, args []string) error {
				request := o.request(ui.Discard)
				request.Grace = g.of()
				e, err := environment.Existing(request)
				if err != nil {
					return err
				}
				nodes, ok := e.Driver.(driver.NodeController)
				if !ok {
					return fmt.Errorf("the %s driver cannot %s single nodes", e.Kind.Name, v.name)
				}
				if err := e.KnownNode(args[0]); err != nil {
					return err
				}
				if err := v.do(nodes, c.Context(), args[0]); err != nil {
					return fmt.Errorf("%s node %s: %w", v.name, args[0], err)
				}
				return nil
			},
		}
		if v.name == "stop" {
			g.flags(one)
		}
		c.AddCommand(one)
	}
	return c
}

func listNodes(ctx context.Context, o *options) error {
	e, err := o.existing()
	if err != nil {
		return err
	}
	obs, err := e.Observe(ctx)
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
	e, err := environment.Attach(o.request(ui.Discard))
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return e.NodeNames(), cobra.ShellCompDirectiveNoFileComp
}
