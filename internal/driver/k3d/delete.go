package k3d

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"

	"golang.org/x/sync/errgroup"
)

// Delete implements [driver.Driver].
func (d *Driver) Delete(ctx context.Context) error {
	m, known, err := d.remembered()
	if err != nil {
		return err
	}
	if known {
		if err := d.deleteMade(ctx, m); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(d.StateDir); err != nil {
		return err
	}
	for _, e := range slices.Backward(d.effects()) {
		if err := d.Journal.Undone(e); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	return nil
}

// deleteMade removes what the engine has, without k3d where that is not there any more.
func (d *Driver) deleteMade(ctx context.Context, m memory) error {
	s, err := d.look(ctx, m.ID)
	if err != nil {
		return err
	}
	var g errgroup.Group
	if s.mirror != nil {
		g.Go(func() error { return d.engine.remove(ctx, s.mirror.ID) })
	}
	if !s.theirs {
		for _, c := range s.nodes {
			g.Go(func() error { return d.engine.remove(ctx, c.ID) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if s.theirs {
		return nil
	}
	err = d.engine.call(ctx, http.MethodDelete, "/networks/"+networkName(d.Spec.Name), nil, nil)
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove the cluster's network: %w", err)
	}
	err = d.engine.call(ctx, http.MethodDelete, "/volumes/k3d-"+clusterName(d.Spec.Name)+"-images", nil, nil)
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove the cluster's volume: %w", err)
	}
	return nil
}

// Audit implements [driver.Driver].
func (d *Driver) Audit(ctx context.Context) ([]string, error) {
	var leaks []string
	if _, err := os.Stat(d.StateDir); err == nil {
		leaks = append(leaks, "folder "+d.StateDir)
	}
	ours, err := d.engine.containers(ctx, labelEnvironment+"="+d.Spec.Name)
	if err != nil {
		if len(leaks) == 0 { // nothing of an engine that is not there is left
			return nil, nil //nolint:nilerr // see above
		}
		return leaks, err
	}
	for _, c := range ours {
		leaks = append(leaks, "container "+c.name())
	}
	// Of a cluster that somebody else made under the name, nothing is ours.
	cluster, err := d.engine.containers(ctx, labelCluster+"="+clusterName(d.Spec.Name))
	if err != nil || len(cluster) > 0 {
		return leaks, err
	}
	networks, err := d.engine.networks(ctx, "app=k3d")
	if err != nil {
		return leaks, err
	}
	for _, n := range networks {
		if n.Name == networkName(d.Spec.Name) {
			leaks = append(leaks, "network "+n.Name)
		}
	}
	volumes, err := d.engine.volumes(ctx, "k3d.cluster="+clusterName(d.Spec.Name))
	for _, v := range volumes {
		leaks = append(leaks, "volume "+v.Name)
	}
	return leaks, err
}
