package app

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newStatus(o *options) *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use:   "status",
		Short: "What runs, where, and whether it is ready",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return runStatus(c.Context(), o, watch)
		},
	}
	c.Flags().BoolVarP(&watch, "watch", "w", false, "go on until Ctrl-C, printing when something changed")
	return c
}

func runStatus(ctx context.Context, o *options, watch bool) error {
	e, err := environment.Attach(o.request(ui.Discard))
	if err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := ""
	for {
		st, err := e.Status(ctx)
		if err != nil {
			return err
		}
		if now := fmt.Sprint(st); now != last {
			if o.json() {
				err = printJSON(o.out, st)
			} else {
				if last != "" {
					fmt.Fprintf(o.out, "\n%s\n", time.Now().Format(time.TimeOnly))
				}
				err = printStatus(o.out, st)
			}
			if err != nil {
				return err
			}
			last = now
		}
		if !watch {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func printStatus(w io.Writer, st environment.Status) error {
	note := ""
	if st.Durability == spec.DurabilityFast {
		note = " · durability fast: a host crash may lose acknowledged writes"
	}
	fmt.Fprintf(w, "Environment %s: %s%s\n", st.Environment, st.Phase, note)
	if st.Phase == string(driver.PhaseAbsent) {
		_, err := fmt.Fprintln(w, "Make it with: orrery up")
		return err
	}
	if st.NetworkReason != "" {
		fmt.Fprintln(w, "Network:", st.NetworkReason)
	}
	rows := [][]string{}
	for _, n := range st.Nodes {
		rows = append(rows, []string{n.Name, string(n.Role), n.Zone, n.Address, n.State, n.Reason})
	}
	fmt.Fprintln(w)
	if err := ui.Table(w, []string{"NODE", "ROLE", "ZONE", "ADDRESS", "STATE", "REASON"}, rows); err != nil {
		return err
	}
	if len(st.Components) > 0 {
		rows = nil
		for _, c := range st.Components {
			rows = append(rows, []string{c.Name, c.Namespace, string(c.State), c.Reason})
		}
		fmt.Fprintln(w)
		if err := ui.Table(w, []string{"COMPONENT", "NAMESPACE", "STATE", "REASON"}, rows); err != nil {
			return err
		}
	}
	if len(st.Services) > 0 {
		rows = nil
		for _, s := range st.Services {
			rows = append(rows, []string{s.Namespace + "/" + s.Name, s.State, s.Reason})
		}
		fmt.Fprintln(w)
		if err := ui.Table(w, []string{"SERVICE", "STATE", "REASON"}, rows); err != nil {
			return err
		}
	}
	if len(st.Workloads) > 0 {
		rows = nil
		for _, d := range st.Workloads {
			rows = append(rows, []string{d.Namespace + "/" + d.Name, d.State, d.Reason})
		}
		fmt.Fprintln(w)
		if err := ui.Table(w, []string{"WORKLOAD", "STATE", "REASON"}, rows); err != nil {
			return err
		}
	}
	if len(st.Endpoints) > 0 {
		rows = nil
		for _, k := range slices.Sorted(maps.Keys(st.Endpoints)) {
			rows = append(rows, []string{k, st.Endpoints[k]})
		}
		fmt.Fprintln(w)
		if err := ui.Table(w, []string{"ENDPOINT", "ADDRESS"}, rows); err != nil {
			return err
		}
	}
	for _, line := range st.Warnings {
		if _, err := fmt.Fprintf(w, "\nwarning: %s\n", line); err != nil {
			return err
		}
	}
	return nil
}

func newList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "The environments on this machine",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r := o.request(ui.Discard)
			names, err := r.Names()
			if err != nil {
				return err
			}
			all := []environment.Status{}
			for _, r.Name = range names {
				e, err := environment.Attach(r)
				if err != nil {
					return err
				}
				st, err := e.Status(c.Context())
				if err != nil {
					return err
				}
				all = append(all, st)
			}
			if o.json() {
				return printJSON(o.out, all)
			}
			rows := [][]string{}
			for _, st := range all {
				rows = append(rows, []string{st.Environment, st.Phase, fmt.Sprint(len(st.Nodes)), st.Endpoints[driver.EndpointAPI]})
			}
			return ui.Table(o.out, []string{"ENVIRONMENT", "PHASE", "NODES", "API"}, rows)
		},
	}
}
