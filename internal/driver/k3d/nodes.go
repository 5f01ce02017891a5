package k3d

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/failure"
)

// stopTime is what a node has to end in good order, beside the grace of its pods.
const stopTime = 10 * time.Second

func (d *Driver) stopContainer(ctx context.Context, c container) error {
	if c.State != "running" && c.State != "restarting" && c.State != "paused" {
		return nil
	}
	if err := d.engine.post(ctx, fmt.Sprintf("/containers/%s/stop?t=%d", c.ID, stopTime/time.Second)); err != nil {
		return fmt.Errorf("stop %s: %w", c.name(), err)
	}
	return nil
}

func (d *Driver) startContainer(ctx context.Context, c container) error {
	if err := d.engine.post(ctx, "/containers/"+c.ID+"/start"); err != nil {
		return fmt.Errorf("start %s: %w", c.name(), err)
	}
	return nil
}

// one finds a node by its name.
func (d *Driver) one(ctx context.Context, name string) (container, memory, error) {
	m, known, err := d.remembered()
	if err != nil {
		return container{}, m, err
	}
	if !known {
		return container{}, m, fmt.Errorf("there is no environment %q", d.Spec.Name)
	}
	s, err := d.look(ctx, m.ID)
	if err != nil {
		return container{}, m, err
	}
	if s.theirs {
		return container{}, m, d.notOurs()
	}
	var names []string
	for _, p := range places(d.Spec) {
		if c, ok := s.nodes[p.name]; ok && p.node.Name == name {
			return c, m, nil
		}
		names = append(names, p.node.Name)
	}
	return container{}, m, failure.Usagef("no node %q; there are %s", name, strings.Join(names, ", "))
}

// StopNode implements [driver.NodeController].
func (d *Driver) StopNode(ctx context.Context, name string) error {
	c, m, err := d.one(ctx, name)
	if err != nil {
		return err
	}
	if !slices.Contains(m.Stopped, c.name()) {
		m.Stopped = append(m.Stopped, c.name())
	}
	if err := d.remember(m); err != nil { // first: it stays stopped if we die on the way
		return err
	}
	return d.stopContainer(ctx, c)
}

// StartNode implements [driver.NodeController].
func (d *Driver) StartNode(ctx context.Context, name string) error {
	c, m, err := d.one(ctx, name)
	if err != nil {
		return err
	}
	m.Stopped = slices.DeleteFunc(m.Stopped, func(n string) bool { return n == c.name() })
	if err := d.remember(m); err != nil {
		return err
	}
	if c.State == "running" {
		return nil
	}
	return d.startContainer(ctx, c)
}

// KillNode implements [driver.NodeController]. Its processes are killed and not its container: engines
// do not start again what they were asked to kill.
func (d *Driver) KillNode(ctx context.Context, name string) error {
	c, _, err := d.one(ctx, name)
	if err != nil {
		return err
	}
	if c.State != "running" {
		return fmt.Errorf("%s does not run", c.name())
	}
	if err := d.engine.run(ctx, c.ID, []string{"kill", "-9", "-1"}, io.Discard); err != nil {
		d.Log.Debug("who kills ends with the others", "error", err)
	}
	return nil
}

// Logs implements [driver.LogSource].
func (d *Driver) Logs(ctx context.Context, name, service string, follow bool, w io.Writer) error {
	c, _, err := d.one(ctx, name)
	if err != nil {
		return err
	}
	if service == nodeService {
		err := d.engine.logs(ctx, c.ID, follow, w)
		if follow && ctx.Err() != nil {
			return nil
		}
		return err
	}
	var out strings.Builder
	if err := d.engine.run(ctx, c.ID, []string{"ls", "/var/log/orrery"}, &out); err != nil {
		return err
	}
	services := []string{nodeService}
	for f := range strings.FieldsSeq(out.String()) {
		if s, ok := strings.CutSuffix(f, ".log"); ok {
			services = append(services, s)
		}
	}
	if !slices.Contains(services, service) {
		return failure.Usagef("%s has no service %q; it has %s", c.name(), service, strings.Join(services, ", "))
	}
	args := []string{"cat", "/var/log/orrery/" + service + ".log"}
	if follow {
		args = []string{"tail", "-n", "+1", "-F", args[1]}
	}
	err = d.engine.run(ctx, c.ID, args, w)
	if follow && ctx.Err() != nil {
		return nil
	}
	return err
}
