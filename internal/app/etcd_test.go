package app

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/fake"
)

func TestEtcd(t *testing.T) {
	s := newSmall(t)
	s.want(exitFailed, "etcd status", `there is no environment "small"`)
	s.up()
	s.want(exitOK, "etcd status", "server1", "leader", "healthy", "4.0 MiB")
	var members []driver.EtcdMember
	if err := json.Unmarshal([]byte(s.want(exitOK, "etcd status -o json")), &members); err != nil || len(members) == 0 || members[0].Size != 4<<20 {
		t.Errorf("%+v, %v", members, err)
	}
	s.want(exitOK, "etcd defrag", "server1: 1.0 MiB, was 4.0 MiB")
	s.want(exitOK, "etcd defrag -o json", `"before":4194304`)
	s.want(exitUsage, "etcd replace server9", `has no node "server9"`)
	s.want(exitOK, "etcd replace server1")

	s.want(exitUsage, "etcd snapshot")
	s.want(exitOK, "etcd snapshot s.db", "s.db", "hash checked", "Secrets too")
	if st, err := os.Stat("s.db"); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the snapshot: %v, %v", st, err)
	}
	s.want(exitUsage, "etcd snapshot s.db", "is there already", "--force")
	s.want(exitOK, "etcd snapshot --force s.db -o json", `"node":"server1"`)

	s.want(exitUsage, "etcd restore s.db", "nothing was done", "--yes")
	if err := os.WriteFile("bad.db", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.want(exitUsage, "etcd restore bad.db --yes", "no snapshot of etcd")
	s.want(exitOK, "status", "running") // nothing was stopped for it
	s.want(exitOK, "etcd restore s.db --yes", "etcd/restore", "etcd/start")
	s.want(exitOK, "status", "running")
	if _, err := os.Stat(filepath.Join(s.state, "small", "etcd-before")); !os.IsNotExist(err) {
		t.Errorf("what was there before is left: %v", err)
	}
}

// A start that fails after a restore says where the data from before is, and leaves it there.
func TestEtcdRestoreThatDoesNotStart(t *testing.T) {
	s := newSmall(t)
	s.up()
	s.want(exitOK, "etcd snapshot s.db")
	s.cluster.Fail("Ready", fake.Fault{Times: 1, Error: "no node comes"})
	kept := filepath.Join(s.state, "small", "etcd-before")
	s.want(exitFailed, "etcd restore s.db --yes", "no node comes", "is kept in "+kept, "'orrery stop --env small'")
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	s.want(exitOK, "start") // ready with what was restored: what was before is no way back any more
	if _, err := os.Stat(kept); !os.IsNotExist(err) {
		t.Errorf("what was there before is left, and would be taken for the way back from the next one: %v", err)
	}
	s.cluster.Fail("RestoreEtcd", fake.Fault{Times: 1, Error: "no space"})
	s.want(exitFailed, "etcd restore s.db --yes", "no space")
	s.want(exitOK, "start")
	s.cluster.Fail("RestoreEtcd", fake.Fault{Times: 1, Error: "no space", Late: true})
	s.want(exitFailed, "etcd restore s.db --yes", "no space", "'orrery start --env small' starts it")
	s.want(exitOK, "start")
}

func TestEtcdSnapshotThatBreaksOff(t *testing.T) {
	s := newSmall(t)
	s.up()
	s.want(exitOK, "etcd snapshot s.db")
	before, err := os.ReadFile("s.db")
	if err != nil {
		t.Fatal(err)
	}
	s.cluster.Fail("SnapshotEtcd", fake.Fault{Error: "the member went away"})
	s.want(exitFailed, "etcd snapshot --force s.db", "the member went away")
	if after, err := os.ReadFile("s.db"); err != nil || string(after) != string(before) {
		t.Errorf("what was there is not: %v", err)
	}
	if left, _ := filepath.Glob("s.db?*"); len(left) > 0 {
		t.Errorf("left: %s", strings.Join(left, " "))
	}
}

// A member that is not healthy is exit status 1.
func TestEtcdStatusOfAStoppedServer(t *testing.T) {
	s := newSmall(t)
	s.up()
	s.want(exitOK, "node stop server1")
	s.want(exitFailed, "etcd status", "does not answer", "not healthy: server1")
}
