package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/environment"
	"github.com/orrery-dev/orrery/internal/failure"
	"github.com/orrery-dev/orrery/internal/ui"
)

func newEtcd(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "etcd",
		Short: "Look after what holds the cluster's state: health, snapshots, space, members",
	}
	c.AddCommand(newEtcdStatus(o), newEtcdSnapshot(o), newEtcdRestore(o), newEtcdDefrag(o), newEtcdReplace(o))
	return c
}

func newEtcdStatus(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Each member: leader, size, what of it is in use, raft's index, alarms, health",
		Long: `Ask every member of etcd how it is. SIZE is its file, IN USE what of that holds data: 'orrery
etcd defrag' gives the rest back. At QUOTA the alarm NOSPACE is raised, and nothing can be written
any more.

Exit status 1 when a member is not healthy.`,
		Example: `  orrery etcd status
  orrery etcd status -o json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return etcdStatus(c.Context(), o) },
	}
}

func etcdStatus(ctx context.Context, o *options) error {
	_, keeper, err := o.etcd(o.request(ui.Discard))
	if err != nil {
		return err
	}
	members, err := keeper.EtcdMembers(ctx)
	if err != nil {
		return err
	}
	var sick []string
	rows := [][]string{}
	for _, m := range members {
		role := "follower"
		switch {
		case m.Leader:
			role = "leader"
		case m.Learner:
			role = "learner"
		case m.ID == "":
			role = ""
		}
		health := "healthy"
		if !m.Healthy {
			health = m.Problem
			sick = append(sick, m.Node)
		}
		row := []string{m.Node, m.ID, role, "", "", "", "", strings.Join(m.Alarms, ","), health}
		if m.ID != "" {
			row[3], row[4], row[5], row[6] = ui.Size(m.Size), ui.Size(m.InUse), ui.Size(m.Quota), fmt.Sprint(m.Index)
		}
		rows = append(rows, row)
	}
	if o.json() {
		err = printJSON(o.out, append([]driver.EtcdMember{}, members...))
	} else {
		err = ui.Table(o.out, []string{"NODE", "ID", "ROLE", "SIZE", "IN USE", "QUOTA", "RAFT INDEX", "ALARMS", "HEALTH"}, rows)
	}
	if len(sick) > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d members of etcd are not healthy: %s", len(sick), len(members), strings.Join(sick, ", ")))
	}
	return err
}

func newEtcdSnapshot(o *options) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "snapshot FILE",
		Short: "Write all that etcd holds into a file",
		Long: `Write all that etcd holds into FILE, as 'etcdctl snapshot save' does, and check its hash. It
takes a moment, stops nothing, and works while the members have no quorum.

FILE holds every object of the cluster, all Secrets too. These are encrypted with the environment's
own key (pki/encryption.key below its state folder), all else is not: keep it as you would keep the
administrator's kubeconfig. It is made readable by its owner only. It can be restored into this
environment only; after 'orrery down' the keys that it needs are gone. It does not hold what volumes
hold, nor images.`,
		Example: `  orrery etcd snapshot before-the-upgrade.db
  orrery etcd snapshot --force /backup/etcd.db`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			e, _, err := o.etcd(o.request(ui.Discard))
			if err != nil {
				return err
			}
			s, err := e.SnapshotEtcd(c.Context(), args[0], force)
			if err != nil {
				return err
			}
			if o.json() {
				return printJSON(o.out, s)
			}
			_, err = fmt.Fprintf(o.out, "%s: %s from %s, hash checked. It holds all objects, Secrets too: keep it safe.\n", s.File, ui.Size(s.Bytes), s.Node)
			return err
		},
	}
	c.Flags().BoolVar(&force, "force", false, "replace FILE when it is there")
	return c
}

func newEtcdRestore(o *options) *cobra.Command {
	var yes bool
	var timeout time.Duration
	g := grace{driver.DefaultGrace, false}
	c := &cobra.Command{
		Use:   "restore FILE",
		Short: "Stop the environment, take etcd back to a snapshot, start it",
		Long: `Take the cluster's state back to what FILE holds: the environment is stopped as by 'orrery stop',
a new cluster of etcd is made from FILE on all servers, and the environment is started again. It is
also the way back when more than half of the members have lost their data.

Every object that was made or changed since is as it was then, or gone. What is not in etcd stays as
it is now: what volumes hold, images in the mirror, logs and metrics, and what operators and streams
keep on their volumes. Volumes that were made since are no longer known to the cluster, and pods that
were deleted since run again.

What the members had is kept until all nodes are Ready again; if they do not become so, the error says
where it is and how to go back. After that it is removed: take a snapshot before, if you may want it.

A snapshot of another environment is refused: its Secrets are encrypted with another key. --yes is
needed, since nothing brings back what is newer than FILE.`,
		Example: `  orrery etcd snapshot now.db
  orrery etcd restore before-the-upgrade.db --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if !yes {
				return failure.Usagef("nothing was done: what was made or changed in the cluster since %s was taken would be lost; "+
					"'orrery etcd snapshot FILE' keeps it, --yes goes on", args[0])
			}
			sink := o.renderer()
			defer sink.Close()
			request := o.change("etcd restore", sink)
			request.Timeout, request.Grace = timeout, g.of()
			e, _, err := o.etcd(request)
			if err != nil {
				return err
			}
			defer e.Close()
			start := time.Now()
			var running ui.Event
			end := func(err error) {
				if running.Step == "" {
					return
				}
				running.State, running.Seconds = ui.StateDone, environment.Seconds(time.Since(start))
				if err != nil {
					running.State, running.Error = ui.StateFailed, err.Error()
				}
				sink.Emit(running)
			}
			err = e.RestoreEtcd(c.Context(), args[0], func(name string) {
				end(nil)
				start = time.Now()
				running = ui.Event{Type: ui.TypeStep, Step: "etcd/" + name, Phase: "cluster", State: ui.StateRunning}
				sink.Emit(running)
			})
			end(err)
			if err != nil {
				return fmt.Errorf("restore etcd of environment %q: %w", e.Spec.Name, err)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "yes, give up what is newer than FILE")
	timeoutFlag(c, &timeout)
	g.flags(c)
	return c
}

func newEtcdDefrag(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "defrag",
		Short: "Give free space of etcd's files back to the disk, and take the alarm NOSPACE back",
		Long: `Defragment one member after the other, the leader last. A member answers nothing while it is at
work, which takes about a second for every 100 MiB; its API server waits. With one server that is
the whole API.

When there is the alarm NOSPACE, old revisions are compacted first, and the alarm is taken back once
there is space. If there is none, the objects themselves are too many: deleting some works in spite
of the alarm; then run this again.

It does nothing unless every member answers.`,
		Example: `  orrery etcd defrag
  orrery etcd status`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			_, keeper, err := o.etcd(o.request(ui.Discard))
			if err != nil {
				return err
			}
			done := []driver.EtcdDefragmented{}
			err = keeper.DefragmentEtcd(c.Context(), func(d driver.EtcdDefragmented) {
				done = append(done, d)
				if !o.json() {
					fmt.Fprintf(o.out, "%s: %s, was %s\n", d.Node, ui.Size(d.After), ui.Size(d.Before))
				}
			})
			if o.json() {
				return cmp.Or(err, printJSON(o.out, done))
			}
			return err
		},
	}
}

func newEtcdReplace(o *options) *cobra.Command {
	g := grace{driver.DefaultGrace, false}
	c := &cobra.Command{
		Use:   "replace NODE",
		Short: "Take a damaged member's data away and let it join the others again",
		Long: `Stop a server, take the data of its member of etcd away, and start it again: it joins as a new
member and gets all data from the others. It is for a member whose data is damaged, so that etcd on
that node ends again and again. One whose data is gone altogether is replaced without being asked.

The others must have a quorum without it, or nothing is done. Pods of the node end as by 'orrery node
stop'.`,
		Example:           `  orrery etcd replace server2`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: o.completeNodes,
		RunE: func(c *cobra.Command, args []string) error {
			sink := o.renderer()
			defer sink.Close()
			request := o.request(sink)
			request.Grace = g.of()
			e, keeper, err := o.etcd(request)
			if err != nil {
				return err
			}
			if err := e.KnownNode(args[0]); err != nil {
				return err
			}
			return keeper.ReplaceEtcdMember(c.Context(), args[0])
		},
	}
	g.flags(c)
	return c
}

// etcd opens an environment whose driver keeps an etcd.
func (o *options) etcd(r environment.Request) (*environment.Environment, driver.EtcdKeeper, error) {
	e, err := environment.Existing(r)
	if err != nil {
		return nil, nil, err
	}
	keeper, err := e.Etcd()
	if err != nil {
		return nil, nil, errors.Join(err, e.Close())
	}
	return e, keeper, nil
}
