package fake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/spec"
)

// keptEtcd is there from RestoreEtcd until Ready.
const keptEtcd = "etcd-before"

// EtcdMembers implements [driver.EtcdKeeper]: one for each server, the first is the leader. One
// on a stopped node does not answer.
func (d *Driver) EtcdMembers(ctx context.Context) (members []driver.EtcdMember, err error) {
	err = d.do(ctx, "EtcdMembers", func() error {
		o, err := d.observe(ctx)
		if err != nil {
			return err
		}
		if o.Phase != driver.PhaseRunning {
			return fmt.Errorf("environment %q is %s", d.Spec.Name, o.Phase)
		}
		for i, n := range o.Nodes {
			switch {
			case n.Role != spec.RoleServer:
			case !n.Running:
				members = append(members, driver.EtcdMember{Node: n.Name, Problem: "it does not answer"})
			default:
				members = append(members, driver.EtcdMember{
					Node: n.Name, ID: fmt.Sprintf("%x", 0xa0+i), Version: "3.0.0", Leader: i == 0, Healthy: true,
					Size: 4 << 20, InUse: 1 << 20, Quota: 2 << 30, Term: 2, Index: 100, Applied: 100,
				})
			}
		}
		return nil
	})
	return members, err
}

// SnapshotEtcd implements [driver.EtcdKeeper]. There is nothing in it.
func (d *Driver) SnapshotEtcd(ctx context.Context, w io.Writer) (string, error) {
	err := d.do(ctx, "SnapshotEtcd", func() error {
		page := bytes.Repeat([]byte{'e'}, 4096)
		sum := sha256.Sum256(page)
		_, err := w.Write(append(page, sum[:]...))
		return err
	})
	return d.Spec.Topology()[0].Name, err
}

// DefragmentEtcd implements [driver.EtcdKeeper].
func (d *Driver) DefragmentEtcd(ctx context.Context, tell func(driver.EtcdDefragmented)) error {
	members, err := d.EtcdMembers(ctx)
	if err != nil {
		return err
	}
	return d.do(ctx, "DefragmentEtcd", func() error {
		for _, m := range members {
			if tell != nil {
				tell(driver.EtcdDefragmented{Node: m.Node, Before: m.Size, After: m.InUse})
			}
		}
		return nil
	})
}

// ReplaceEtcdMember implements [driver.EtcdKeeper]: the node is started again.
func (d *Driver) ReplaceEtcdMember(ctx context.Context, name string) error {
	return d.change(ctx, "ReplaceEtcdMember", name, func(s *nodeState) { s.Stopped = false; s.Restarts++ })
}

// RestoreEtcd implements [driver.EtcdKeeper]. The API stays as it is.
func (d *Driver) RestoreEtcd(ctx context.Context, snapshot string) (kept []string, err error) {
	err = d.do(ctx, "RestoreEtcd", func() error {
		if err := driver.CheckEtcdSnapshot(snapshot); err != nil {
			return err
		}
		if err := d.Stop(ctx); err != nil {
			return err
		}
		kept = []string{d.path(keptEtcd)}
		return os.MkdirAll(filepath.Join(d.path(keptEtcd), "member"), 0o700)
	})
	return kept, err
}
