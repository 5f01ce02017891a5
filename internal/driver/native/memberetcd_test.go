package native

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
)

// Three members in namespaces of their own, with the flags and credentials of nodes: one loses
// its data and is back with all that the others have.
func TestReplaceMemberOfEtcd(t *testing.T) {
	etcd := filepath.Join(testDistribution(t), "etcd")
	if !exists(etcd) {
		etcd = filepath.Join(testDistribution(t), "kubernetes")
	}
	c, p := testCluster(t), paths(t.TempDir())
	c.Fast = true
	if err := credentials(&issuer{now: time.Now}, p, c, networks[c.Plugin]); err != nil {
		t.Fatal(err)
	}
	f, err := newFabric(c)
	if err != nil {
		t.Skipf("this kernel cannot: %v", err)
	}
	defer f.close()
	running := map[string]*exec.Cmd{}
	spawners := map[string]*spawner{}
	start := func(n node) {
		t.Helper()
		i := initConfig{Services: []service{etcdService(c, n)}}
		if exists(p.memberAdded(n.Name)) {
			i.joinExisting()
		}
		var args []string
		for _, a := range i.Services[0].Args[1:] {
			a = strings.ReplaceAll(a, nodePKI, p.nodeEtc(n.Name, "kubernetes", "pki")+"/")
			args = append(args, strings.Replace(a, "/var/lib/etcd", filepath.Dir(p.etcd(n)), 1))
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Dir(p.etcd(n))), 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(etcd, args...)
		cmd.Args[0] = "etcd"
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := spawners[n.Name].start(cmd); err != nil {
			t.Fatal(err)
		}
		running[n.Name] = cmd
	}
	end := func(name string) {
		_ = running[name].Process.Kill()
		_ = running[name].Wait()
	}
	for _, n := range c.servers() {
		ns, err := newNetNS()
		if err != nil {
			t.Fatal(err)
		}
		defer ns.close()
		if err := f.plugInto(n, ns.file, nil); err != nil {
			t.Fatal(err)
		}
		if spawners[n.Name], err = newSpawner(ns); err != nil {
			t.Fatal(err)
		}
		start(n)
		defer end(n.Name)
	}
	ask := askMembers(p, f.ns.dial)
	answers := func(n node) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		err := check.Until(ctx, check.Pause{First: 200 * time.Millisecond}, func() error {
			one, cancel := context.WithTimeout(ctx, askTime)
			defer cancel()
			var answer struct{ Members []member }
			return ask(one, n, "/v3/cluster/member/list", map[string]bool{"linearizable": true}, &answer)
		})
		if err != nil {
			t.Fatalf("%s: %v", n.Name, err)
		}
	}
	for _, n := range c.servers() {
		answers(n)
		if err := p.noteMember(n); err != nil || !exists(p.memberJoined(n.Name)) {
			t.Fatalf("its data was not seen: %v", err)
		}
	}
	lost := c.Nodes[1]
	end(lost.Name)
	if err := os.RemoveAll(filepath.Dir(p.etcd(lost))); err != nil {
		t.Fatal(err)
	}
	m := &machine{node: lost, paths: p, cluster: c, log: slog.New(slog.DiscardHandler), ask: ask}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.restoreMember(ctx, p.memberLoss(c, lost)); err != nil {
		t.Fatal(err)
	}
	start(lost)
	answers(lost)
	list, _, err := ask.members(t.Context(), c, c.Nodes[0])
	if err != nil || len(list) != 3 {
		t.Errorf("%+v, %v", list, err)
	}
}
