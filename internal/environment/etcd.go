package environment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/orrery-dev/orrery/internal/atomicfile"
	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/failure"
)

// Etcd is what keeps the environment's etcd; an error where that is none of ours.
func (e *Environment) Etcd() (driver.EtcdKeeper, error) {
	keeper, ok := e.Driver.(driver.EtcdKeeper)
	if !ok {
		return nil, fmt.Errorf("the %s driver has no etcd of its own: ask whoever made the cluster", e.Kind.Name)
	}
	return keeper, nil
}

// EtcdSnapshot is a snapshot that was taken.
type EtcdSnapshot struct {
	File  string `json:"file"` // absolute
	Node  string `json:"node"` // whose member gave it
	Bytes int64  `json:"bytes"`
}

// SnapshotEtcd writes all that etcd holds into file, for its owner only, and checks that it
// arrived whole. A file that is there is replaced with force only. A failure leaves what was there.
func (e *Environment) SnapshotEtcd(ctx context.Context, file string, force bool) (EtcdSnapshot, error) {
	var s EtcdSnapshot
	keeper, err := e.Etcd()
	if err != nil {
		return s, err
	}
	if s.File, err = newFile(file, force); err != nil {
		return s, err
	}
	err = atomicfile.Replace(s.File, func(tmp string) error {
		f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		s.Node, err = keeper.SnapshotEtcd(ctx, f)
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
		if err := driver.CheckEtcdSnapshot(tmp); err != nil {
			return fmt.Errorf("what arrived from %s: %w", s.Node, err)
		}
		st, err := os.Stat(tmp)
		if err == nil {
			s.Bytes = st.Size()
		}
		return err
	})
	if err != nil {
		return s, fmt.Errorf("snapshot of etcd: %w", err)
	}
	return s, disk.Sync(filepath.Dir(s.File))
}

// RestoreEtcd stops the environment, gives its servers the data of a snapshot and starts it again. What
// they had is kept until all nodes are Ready; the error says where it is, if they do not become so.
// step is called before each part of the work.
func (e *Environment) RestoreEtcd(ctx context.Context, file string, step func(name string)) error {
	keeper, err := e.Etcd()
	if err != nil {
		return err
	}
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	if err := driver.CheckEtcdSnapshot(file); err != nil {
		return failure.Usage{Err: err}
	}
	step("restore")
	kept, err := keeper.RestoreEtcd(ctx, file)
	if err != nil {
		if o, oerr := e.Driver.Observe(context.WithoutCancel(ctx)); oerr == nil && o.Phase == driver.PhaseStopped {
			err = fmt.Errorf("%w\n  the environment is stopped: 'orrery start%s' starts it", err, e.Flag())
		}
		return err
	}
	step("start")
	if err := e.Start(ctx); err != nil {
		return fmt.Errorf("%w\n  etcd is restored; %s", err, e.wayBack(kept))
	}
	return nil
}

// Start brings a stopped environment back, until all nodes are Ready.
func (e *Environment) Start(ctx context.Context) error {
	if err := e.Driver.Prepare(ctx); err != nil {
		return err
	}
	if err := e.Driver.Ensure(ctx); err != nil {
		return err
	}
	return e.Driver.Ready(ctx)
}

// wayBack says how to have what was before a restore.
func (e *Environment) wayBack(kept []string) string {
	if len(kept) == 0 {
		return "no member had data before"
	}
	return fmt.Sprintf("what its members had before is kept in %s until a start succeeds. To go on from there: 'orrery stop%s', "+
		"for each server remove nodes/NAME/var/lib/etcd below %s and move nodes/NAME/%s into its place, 'orrery start%s'",
		strings.Join(kept, " "), e.Flag(), e.StateDir, filepath.Base(kept[0]), e.Flag())
}
