package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/catalog"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/kube"
	"github.com/orrery-dev/orrery/internal/spec"
	"github.com/orrery-dev/orrery/internal/ui"
)

// status is what `status -o json` prints; its form is a contract.
type status struct {
	Environment string          `json:"environment"`
	Driver      string          `json:"driver"`
	Phase       string          `json:"phase"`
	Durability  spec.Durability `json:"durability"`
	// Network is the plugin, with the reason when auto could not be cilium.
	Network       string            `json:"network"`
	NetworkReason string            `json:"networkReason,omitempty"`
	Nodes         []nodeStatus      `json:"nodes"`
	Components    []componentStatus `json:"components"`
	Endpoints     map[string]string `json:"endpoints"`
}

type nodeStatus struct {
	Name    string      `json:"name"`
	Role    driver.Role `json:"role"`
	Zone    string      `json:"zone"`
	Ready   bool        `json:"ready"`
	Address string      `json:"address"`
	State   string      `json:"state"` // ready | not ready | down | stopped
}

type componentStatus struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	State     string `json:"state"` // ready | progressing | failed | skipped
	Reason    string `json:"reason"`
}

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
	s, err := o.attach(ui.Discard)
	if err != nil {
		return err
	}
	if err := s.connect(); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := ""
	for {
		st, err := s.status(ctx)
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

// statusTimeout bounds what status waits for a cluster that does not answer.
const statusTimeout = 15 * time.Second

// status asks the driver and, when the API answers, the cluster.
func (s *session) status(ctx context.Context) (status, error) {
	obs, err := s.observe(ctx)
	if err != nil {
		return status{}, err
	}
	if obs.Phase != driver.PhaseRunning && obs.Phase != driver.PhasePartial {
		return s.statusOf(ctx, obs, nil, census{}), nil
	}
	client, err := s.kube()
	if err != nil {
		return s.statusOf(ctx, obs, nil, census{}), nil
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	return s.statusOf(ctx, obs, client, takeCensus(ctx, client)), nil
}

// statusOf puts together what was seen; client, when there is one, tells more of what is
// not ready.
func (s *session) statusOf(ctx context.Context, obs driver.Observation, client *kube.Client, seen census) status {
	st := status{
		Environment: s.spec.Name, Driver: s.spec.Driver, Phase: string(obs.Phase), Durability: s.spec.Durability,
		Network: s.spec.Network.Plugin, NetworkReason: s.networkReason,
		Nodes: []nodeStatus{}, Components: []componentStatus{}, Endpoints: map[string]string{},
	}
	maps.Copy(st.Endpoints, obs.Endpoints)
	if client != nil {
		namespaces := s.declaredNamespaces()
		st.Components = skippedStates(componentStates(ctx, client, seen, namespaces), s.skipped, namespaces)
	}
	ready := readyOf(seen.nodes)
	for _, n := range obs.Nodes {
		state := "not ready"
		switch {
		case n.Stopped:
			state = "stopped"
		case !n.Running:
			state = "down"
		case ready[n.Name]:
			state = "ready"
		}
		st.Nodes = append(st.Nodes, nodeStatus{n.Name, n.Role, n.Zone, ready[n.Name] && n.Running, n.Address, state})
	}
	return st
}

// declaredNamespaces are those of the catalogue, when there is one at hand.
func (s *session) declaredNamespaces() map[string]string {
	m := map[string]string{}
	if root, err := s.root(); err == nil {
		if c, err := catalog.Load(root); err == nil {
			for name, comp := range c.Components {
				m[name] = comp.Namespace
			}
		}
	}
	return m
}

func printStatus(w io.Writer, st status) error {
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
		rows = append(rows, []string{n.Name, string(n.Role), n.Zone, n.Address, n.State})
	}
	fmt.Fprintln(w)
	if err := ui.Table(w, []string{"NODE", "ROLE", "ZONE", "ADDRESS", "STATE"}, rows); err != nil {
		return err
	}
	if len(st.Components) > 0 {
		rows = nil
		for _, c := range st.Components {
			rows = append(rows, []string{c.Name, c.Namespace, c.State, c.Reason})
		}
		fmt.Fprintln(w)
		if err := ui.Table(w, []string{"COMPONENT", "NAMESPACE", "STATE", "REASON"}, rows); err != nil {
			return err
		}
	}
	if len(st.Endpoints) > 0 {
		rows = nil
		for _, k := range slices.Sorted(maps.Keys(st.Endpoints)) {
			rows = append(rows, []string{k, st.Endpoints[k]})
		}
		fmt.Fprintln(w)
		return ui.Table(w, []string{"ENDPOINT", "ADDRESS"}, rows)
	}
	return nil
}

func newList(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "The environments on this machine",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			entries, err := os.ReadDir(stateRoot())
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("list environments: %w", err)
			}
			all := []status{}
			for _, e := range entries {
				if _, err := os.Stat(filepath.Join(stateRoot(), e.Name())); err != nil || !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
					continue
				}
				each := *o
				each.env = e.Name()
				s, err := each.attach(ui.Discard)
				if err != nil {
					return err
				}
				if err := s.connect(); err != nil {
					return err
				}
				st, err := s.status(c.Context())
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
				rows = append(rows, []string{st.Environment, st.Phase, fmt.Sprint(len(st.Nodes)), st.Endpoints["api"]})
			}
			return ui.Table(o.out, []string{"ENVIRONMENT", "PHASE", "NODES", "API"}, rows)
		},
	}
}
