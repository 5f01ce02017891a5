package drivertest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/driver"
)

// etcd: a snapshot is whole, and the cluster that is made of it holds what was there.
func (r *run) etcd(t *testing.T, d driver.Driver) {
	k, ok := d.(driver.EtcdKeeper)
	if !ok {
		t.Skip("the driver keeps no etcd")
	}
	healthy := func() {
		t.Helper()
		await(t, "all members are healthy", time.Minute, func() error {
			members, err := k.EtcdMembers(t.Context())
			leaders := 0
			for _, m := range members {
				if !m.Healthy {
					err = errors.Join(err, fmt.Errorf("%s: %s", m.Node, m.Problem))
				}
				if m.Leader {
					leaders++
				}
			}
			if leaders != 1 {
				err = errors.Join(err, fmt.Errorf("%d leaders", leaders))
			}
			return err
		})
	}
	healthy()
	must(t, "defragment", func() error { return k.DefragmentEtcd(t.Context(), nil) })
	healthy()
	file := filepath.Join(t.TempDir(), "snapshot.db")
	must(t, "snapshot", func() error {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		_, err = k.SnapshotEtcd(t.Context(), f)
		return errors.Join(err, f.Close(), driver.CheckEtcdSnapshot(file))
	})
	damaged := filepath.Join(t.TempDir(), "damaged.db")
	if err := os.WriteFile(damaged, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.RestoreEtcd(t.Context(), damaged); err == nil {
		t.Error("restored what is no snapshot")
	}
	wantPhase(t, d, driver.PhaseRunning)
	var kept []string
	must(t, "restore", func() (err error) { kept, err = k.RestoreEtcd(t.Context(), file); return err })
	wantPhase(t, d, driver.PhaseStopped)
	for _, dir := range kept {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("what was there before is not kept: %v", err)
		}
	}
	must(t, "ensure", func() error { return d.Ensure(t.Context()) })
	must(t, "ready", func() error { return d.Ready(t.Context()) })
	healthy()
	r.wantSame(t, d)
	for _, dir := range kept {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
}
