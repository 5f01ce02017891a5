package native

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
)

// realEtcd are three members in namespaces of their own, with the flags and credentials of nodes.
type realEtcd struct {
	t        *testing.T
	program  string
	flags    []string // besides
	c        cluster
	p        paths
	f        *fabric
	ask      memberAPI
	spawners map[string]*spawner
	running  map[string]*exec.Cmd
}

// newRealEtcd starts them, and ends them with the test.
func newRealEtcd(t *testing.T, flags ...string) *realEtcd {
	t.Helper()
	r := &realEtcd{t: t, program: filepath.Join(testDistribution(t), "etcd"), flags: flags, c: testCluster(t), p: paths(t.TempDir()),
		spawners: map[string]*spawner{}, running: map[string]*exec.Cmd{}}
	if !exists(r.program) {
		r.program = filepath.Join(testDistribution(t), "kubernetes")
	}
	r.c.Fast = true
	if err := credentials(&issuer{now: time.Now}, r.p, r.c, networks[r.c.Plugin]); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.f, err = newFabric(r.c); err != nil {
		t.Skipf("this kernel cannot: %v", err)
	}
	t.Cleanup(r.f.close)
	r.ask = askMembers(r.p, r.f.ns.dial)
	for _, n := range r.c.servers() {
		ns, err := newNetNS()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.close() })
		if err := r.f.plugInto(n, ns.file, nil); err != nil {
			t.Fatal(err)
		}
		if r.spawners[n.Name], err = newSpawner(ns); err != nil {
			t.Fatal(err)
		}
		r.start(n)
		t.Cleanup(func() { r.end(n) })
	}
	return r
}

func (r *realEtcd) start(n node) {
	r.t.Helper()
	i := initConfig{Services: []service{etcdService(r.c, n)}}
	if exists(r.p.memberAdded(n.Name)) {
		i.joinExisting()
	}
	var args []string
	for _, a := range i.Services[0].Args[1:] {
		a = strings.ReplaceAll(a, nodePKI, r.p.nodeEtc(n.Name, "kubernetes", "pki")+"/")
		args = append(args, strings.Replace(a, "/var/lib/etcd", filepath.Dir(r.p.etcd(n)), 1))
	}
	if err := os.MkdirAll(filepath.Dir(filepath.Dir(r.p.etcd(n))), 0o700); err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(r.program, append(args, r.flags...)...)
	cmd.Args[0] = "etcd"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.spawners[n.Name].start(cmd); err != nil {
		r.t.Fatal(err)
	}
	r.running[n.Name] = cmd
}

func (r *realEtcd) end(n node) {
	_ = r.running[n.Name].Process.Kill()
	_ = r.running[n.Name].Wait()
}

// answers returns when the member has a quorum.
func (r *realEtcd) answers(n node) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	err := check.Until(ctx, check.Pause{First: 200 * time.Millisecond}, func() error {
		one, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		var answer struct{ Members []member }
		return r.ask(one, n, "/v3/cluster/member/list", map[string]bool{"linearizable": true}, &answer)
	})
	if err != nil {
		r.t.Fatalf("%s: %v", n.Name, err)
	}
}

func (r *realEtcd) put(key string, value []byte) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	var ignored any
	return r.ask(ctx, r.c.servers()[0], "/v3/kv/put", map[string][]byte{"key": []byte(key), "value": value}, &ignored)
}

func (r *realEtcd) has(on node, key string) bool {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	var answer struct {
		KVs []any `json:"kvs"`
	}
	if err := r.ask(ctx, on, "/v3/kv/range", map[string][]byte{"key": []byte(key)}, &answer); err != nil {
		r.t.Fatal(err)
	}
	return len(answer.KVs) > 0
}

// supervise lets a driver reach the members as it does in an environment, until the end.
func (r *realEtcd) supervise() (d *Driver, end func()) {
	r.t.Helper()
	lock, id, err := takeLock(r.p)
	if err != nil {
		r.t.Fatal(err)
	}
	server, err := (&supervisor{id: id, paths: r.p, cluster: r.c, fabric: r.f}).listen()
	if err != nil {
		r.t.Fatal(err)
	}
	return &Driver{paths: r.p, cluster: r.c, host: goodHost(), log: slog.New(slog.DiscardHandler)}, func() {
		_, _, _ = server.Close(), lock.Close(), os.Remove(r.p.lock())
	}
}

// One loses its data and is back with all that the others have.
func TestReplaceMemberOfEtcd(t *testing.T) {
	r := newRealEtcd(t)
	for _, n := range r.c.servers() {
		r.answers(n)
		if err := r.p.noteMember(n); err != nil || !exists(r.p.memberJoined(n.Name)) {
			t.Fatalf("its data was not seen: %v", err)
		}
	}
	lost := r.c.Nodes[1]
	r.end(lost)
	if err := os.RemoveAll(filepath.Dir(r.p.etcd(lost))); err != nil {
		t.Fatal(err)
	}
	m := &machine{node: lost, paths: r.p, cluster: r.c, log: slog.New(slog.DiscardHandler), ask: r.ask}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.restoreMember(ctx, r.p.memberLoss(r.c, lost)); err != nil {
		t.Fatal(err)
	}
	r.start(lost)
	r.answers(lost)
	list, _, err := r.ask.members(t.Context(), r.c, r.c.Nodes[0])
	if err != nil || len(list) != 3 {
		t.Errorf("%+v, %v", list, err)
	}
}

// A file that is full of history takes no writes, and takes them again.
func TestNoSpaceOfEtcd(t *testing.T) {
	r := newRealEtcd(t, "--quota-backend-bytes=16777216")
	for _, n := range r.c.servers() {
		r.answers(n)
	}
	d, end := r.supervise()
	defer end()
	megabyte := bytes.Repeat([]byte("x"), 1<<20)
	var full error
	for range 40 {
		if full = r.put("big", megabyte); full != nil {
			break
		}
	}
	if full == nil || !strings.Contains(full.Error(), "space exceeded") {
		t.Fatalf("it is not full: %v", full)
	}
	members, err := d.EtcdMembers(t.Context())
	if err != nil || len(members) != 3 || members[0].Quota != 16<<20 || members[0].Size < 10<<20 {
		t.Fatalf("%+v, %v", members, err)
	}
	alarms := 0
	for _, m := range members {
		alarms += len(m.Alarms)
	}
	if alarms == 0 {
		t.Fatalf("nobody has an alarm: %+v", members)
	}
	if err := d.blame(t.Context(), errors.New("x")); !strings.Contains(err.Error(), "'orrery etcd defrag'") {
		t.Errorf("a start that fails over it says %v", err)
	}
	var order []string
	err = d.DefragmentEtcd(t.Context(), func(f driver.EtcdDefragmented) {
		order = append(order, f.Node)
		if f.After >= f.Before {
			t.Errorf("%s: %d bytes, was %d", f.Node, f.After, f.Before)
		}
	})
	if err != nil || len(order) != 3 {
		t.Fatalf("%q, %v", order, err)
	}
	if err := r.put("small", []byte("y")); err != nil {
		t.Errorf("it takes no writes: %v", err)
	}
}

// A snapshot brings back what was there, nothing that came later, on all servers.
func TestRestoreOfEtcd(t *testing.T) {
	r := newRealEtcd(t)
	for _, n := range r.c.servers() {
		r.answers(n)
	}
	d, end := r.supervise()
	if err := r.put("before", bytes.Repeat([]byte("b"), 200<<10)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "snapshot.db")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if from, err := d.SnapshotEtcd(t.Context(), f); err != nil || from == "" {
		t.Fatalf("%q, %v", from, err)
	}
	if err := errors.Join(f.Close(), driver.CheckEtcdSnapshot(file)); err != nil {
		t.Fatal(err)
	}
	if err := r.put("after", []byte("a")); err != nil {
		t.Fatal(err)
	}
	was, err := r.ask.status(t.Context(), r.c.Nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	end()
	for _, n := range r.c.servers() {
		r.end(n)
	}
	program, from := r.p.join("dist", restoreProgram), filepath.Join(testDistribution(t), filepath.Base(restoreProgram))
	if !exists(from) {
		from = filepath.Join(testDistribution(t), "kubernetes")
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(program), 0o700), os.Symlink(from, program)); err != nil {
		t.Fatal(err)
	}
	if kept, err := d.RestoreEtcd(t.Context(), file); err != nil || len(kept) != 3 {
		t.Fatalf("kept %q, %v", kept, err)
	}
	for _, n := range r.c.servers() {
		r.start(n)
	}
	for _, n := range r.c.servers() {
		r.answers(n)
		if !r.has(n, "before") || r.has(n, "after") {
			t.Errorf("%s has what was there: %t, what came later: %t", n.Name, r.has(n, "before"), r.has(n, "after"))
		}
	}
	now, err := r.ask.status(t.Context(), r.c.Nodes[0])
	if err != nil || now.Header.Revision <= was.Header.Revision {
		t.Errorf("revision %d, was %d (%v): who remembers one would miss changes", now.Header.Revision, was.Header.Revision, err)
	}
}
