package driver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
)

// EtcdMember is a member of an environment's etcd, as it answers.
type EtcdMember struct {
	Node    string `json:"node"`
	ID      string `json:"id,omitempty"` // hexadecimal, as etcd's own tools print it
	Version string `json:"version,omitempty"`
	Leader  bool   `json:"leader"`
	Learner bool   `json:"learner,omitempty"` // has no vote yet
	Healthy bool   `json:"healthy"`           // answers, follows a leader, has no alarm
	// Size of the file, what of it holds data, and where NOSPACE is raised; bytes.
	Size  int64 `json:"size"`
	InUse int64 `json:"inUse"`
	Quota int64 `json:"quota"`
	// Term and Index of raft's log, and up to where it was applied.
	Term    uint64   `json:"term"`
	Index   uint64   `json:"index"`
	Applied uint64   `json:"applied"`
	Alarms  []string `json:"alarms,omitempty"`  // NOSPACE, CORRUPT
	Problem string   `json:"problem,omitempty"` // why it is not healthy
}

// EtcdDefragmented is what defragmenting one member did to the size of its file, in bytes.
type EtcdDefragmented struct {
	Node   string `json:"node"`
	Before int64  `json:"before"`
	After  int64  `json:"after"`
}

// EtcdKeeper is implemented by drivers whose environments have an etcd of their own.
type EtcdKeeper interface {
	// EtcdMembers returns one for each server, also for one that does not answer. The environment
	// must run.
	EtcdMembers(ctx context.Context) ([]EtcdMember, error)
	// SnapshotEtcd writes all that etcd holds to w, from the member that knows most, and returns
	// the name of its node. It needs no quorum. What arrived is for [CheckEtcdSnapshot] to say.
	SnapshotEtcd(ctx context.Context, w io.Writer) (node string, err error)
	// DefragmentEtcd gives free pages back to the disk, one member after the other and the leader
	// last: each answers nothing while it does. When there is the alarm NOSPACE, history is compacted
	// before, and the alarm is taken back once there is space. tell, if not nil, is called after
	// each member.
	DefragmentEtcd(ctx context.Context, tell func(EtcdDefragmented)) error
	// ReplaceEtcdMember takes the data of a server's member away and lets it join the others as a
	// new one. These must have a quorum without it. The node is started again.
	ReplaceEtcdMember(ctx context.Context, node string) error
	// RestoreEtcd stops the environment, unless it is, and gives every server the data of a
	// snapshot: the next start is that of a new cluster. What they had is in the folders that it
	// returns, until Ready has succeeded. A snapshot that cannot be restored stops nothing.
	// Interrupted, it changed nothing, or is finished by the next start.
	RestoreEtcd(ctx context.Context, snapshot string) (kept []string, err error)
}

// A snapshot is etcd's file, a multiple of a page, and then its SHA-256.
const etcdPage = 512

// CheckEtcdSnapshot is nil when a file is whole and what the member had.
func CheckEtcdSnapshot(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	length := st.Size() - sha256.Size
	if length <= 0 || length%etcdPage != 0 {
		return fmt.Errorf("%s is no snapshot of etcd, or has no hash at its end: "+
			"want one that 'orrery etcd snapshot' or 'etcdctl snapshot save' wrote whole", file)
	}
	h := sha256.New()
	if _, err := io.CopyN(h, f, length); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	want, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if !bytes.Equal(h.Sum(nil), want) {
		return fmt.Errorf("%s: %w", file, ErrEtcdSnapshot)
	}
	return nil
}

// ErrEtcdSnapshot says that a snapshot is damaged.
var ErrEtcdSnapshot = errors.New("it is not what the member had: its hash is another; take another copy")
