package native

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/proc"
)

// What a restore has beside a node's var folder, where the node sees none of it.
const (
	etcdRestored = "etcd-restored" // what the member will have
	etcdBefore   = "etcd-before"   // what it had
)

// restoring is there while data folders are exchanged: all that members will have is complete.
func (p paths) restoring() string { return p.join("etcd-restoring") }

const restoreProgram = "bin/etcd-restore"

// RestoreEtcd implements [driver.EtcdKeeper].
func (d *Driver) RestoreEtcd(ctx context.Context, snapshot string) ([]string, error) {
	if err := os.Remove(d.paths.restoring()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err // what an interrupted restore wanted counts no more
	}
	if err := driver.CheckEtcdSnapshot(snapshot); err != nil {
		return nil, err
	}
	if err := d.paths.ownSnapshot(snapshot); err != nil {
		return nil, err
	}
	if !exists(d.paths.join("dist", restoreProgram)) {
		return nil, fmt.Errorf("the nodes' programs are of an orrery that could not restore: 'orrery up' brings %s", restoreProgram)
	}
	if err := (&programs{paths: d.paths}).check(restoreProgram); err != nil {
		return nil, err
	}
	token := "orrery-" + d.cluster.Environment + "-" + newUUID() // no member from before is taken for one of these
	for _, n := range d.cluster.servers() {
		if err := d.stageMember(ctx, n, snapshot, token); err != nil {
			return nil, fmt.Errorf("make the data of %s from %s: %w", n.Name, snapshot, err)
		}
	}
	if err := d.Stop(ctx); err != nil {
		return nil, fmt.Errorf("nothing was changed: %w", err)
	}
	if _, err := writeFile(d.paths.restoring(), []byte(snapshot+"\n")); err != nil {
		return nil, err
	}
	if err := d.paths.exchange(d.cluster); err != nil {
		return nil, err
	}
	return d.paths.keptEtcd(d.cluster), nil
}

// stageMember makes what the member on n will have.
func (d *Driver) stageMember(ctx context.Context, n node, snapshot, token string) error {
	staged := d.paths.join("nodes", n.Name, etcdRestored)
	if err := os.RemoveAll(staged); err != nil {
		return err
	}
	err := proc.Run(ctx, &proc.Cmd{
		Path: d.paths.join("dist", restoreProgram),
		Args: []string{
			"--snapshot=" + snapshot, "--data-dir=" + staged, "--name=" + n.Name,
			"--initial-advertise-peer-urls=" + peerURL(n),
			"--initial-cluster=" + initialCluster(d.cluster), "--initial-cluster-token=" + token,
		},
	})
	if err != nil {
		return err
	}
	return disk.Sync(d.paths.node(n.Name))
}

// exchange puts what was restored where members look for their data, once all of it is there.
// What they had is kept. It can be interrupted and done again.
func (p paths) exchange(c cluster) error {
	if !exists(p.restoring()) {
		return nil
	}
	for _, n := range c.servers() {
		if err := p.exchangeMember(n); err != nil {
			return fmt.Errorf("put the restored data of etcd into %s: %w", n.Name, err)
		}
	}
	return os.Remove(p.restoring())
}

func (p paths) exchangeMember(n node) error {
	root, err := os.OpenRoot(p.node(n.Name)) // the node may have put links below var
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Lstat(etcdRestored); errors.Is(err, fs.ErrNotExist) {
		return nil // done
	}
	const data = "var/lib/etcd"
	if err := root.MkdirAll("var/lib", 0o755); err != nil {
		return err
	}
	if _, err := root.Lstat(etcdBefore); err == nil { // a restore before this one did not come to its end
		err = root.RemoveAll(data)
	} else if err = root.Rename(data, etcdBefore); errors.Is(err, fs.ErrNotExist) {
		err = nil // it had lost its data
	}
	if err != nil {
		return err
	}
	if err := root.Rename(etcdRestored, data); err != nil {
		return err
	}
	return disk.Sync(p.node(n.Name))
}

// keptEtcd are the folders with what members had before a restore.
func (p paths) keptEtcd(c cluster) []string {
	var kept []string
	for _, n := range c.servers() {
		if at := p.join("nodes", n.Name, etcdBefore); exists(at) {
			kept = append(kept, at)
		}
	}
	return kept
}

// forgetEtcd removes what members had before a restore, once the cluster is ready with what it has.
func (p paths) forgetEtcd(c cluster) error {
	for _, at := range p.keptEtcd(c) {
		if err := os.RemoveAll(at); err != nil {
			return fmt.Errorf("remove what etcd had before it was restored: %w", err)
		}
	}
	return nil
}

// secretMark begins what API servers write for what they encrypt; the name of the key and a colon
// come next.
const secretMark = "k8s:enc:secretbox:v1:"

// ownSnapshot refuses a snapshot whose Secrets were encrypted with another environment's key, or with
// one that was given up: no API server could read them, and what trusts that environment's authority
// would trust no more. One without Secrets cannot be told.
func (p paths) ownSnapshot(snapshot string) error {
	keys, err := readKeyring(p.pki(keyringFile))
	if err != nil {
		return err
	}
	f, err := os.Open(snapshot)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("read %s: %w", snapshot, err)
	}
	defer func() { _ = unix.Munmap(data) }()
	if found, ours := readableSecrets(data, keys); found && !ours {
		return fmt.Errorf("%s is of another environment, or from before its keys were rotated: its Secrets are encrypted with "+
			"another key than %s; restore it where it was taken, or bring back that environment's pki folder with it",
			snapshot, p.pki(keyringFile))
	}
	return nil
}

// readableSecrets looks for encrypted values as etcd stores them: in protobuf, as the bytes of
// field 5 with their length before them. found: there is one; ours: a key opens one.
func readableSecrets(data []byte, keys keyring) (found, ours bool) {
	const field = 5<<3 | 2
	for at := 0; ; at += len(secretMark) {
		i := bytes.Index(data[at:], []byte(secretMark))
		if i < 0 {
			return found, false
		}
		at += i
		for digits := 1; digits <= 4 && digits < at; digits++ {
			length, n := binary.Uvarint(data[at-digits : at])
			if n != digits || data[at-digits-1] != field || length > uint64(len(data)-at) {
				continue
			}
			name, box, ok := sealedValue(data[at : at+int(length)])
			if !ok {
				continue
			}
			found = true
			if keys.opens(name, box) {
				return true, true
			}
		}
	}
}

// sealedValue takes apart what an API server wrote: whose key encrypted it, and the nonce with the box.
func sealedValue(value []byte) (key string, box []byte, ok bool) {
	rest, ok := bytes.CutPrefix(value, []byte(secretMark))
	if !ok {
		return "", nil, false
	}
	name, box, ok := bytes.Cut(rest[:min(len(rest), 64)], []byte(":"))
	if !ok {
		return "", nil, false
	}
	box = rest[len(name)+1:]
	return string(name), box, len(box) > 24+secretbox.Overhead
}

// opens: the key of that name decrypts the box.
func (r keyring) opens(name string, box []byte) bool {
	for _, k := range r {
		raw, err := base64.StdEncoding.DecodeString(k.secret)
		if err != nil || len(raw) != 32 || k.name != name {
			continue
		}
		if _, ok := secretbox.Open(nil, box[24:], (*[24]byte)(box[:24]), (*[32]byte)(raw)); ok {
			return true
		}
	}
	return false
}

// initialCluster names all members, as etcd takes it.
func initialCluster(c cluster) string {
	var members []string
	for _, m := range c.servers() {
		members = append(members, m.Name+"="+peerURL(m))
	}
	return strings.Join(members, ",")
}
