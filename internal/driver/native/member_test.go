package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
)

// fakeEtcd is what the servers of a cluster have.
type fakeEtcd struct {
	members []member
	up      []string // servers whose member answers
	asked   []string
}

func (f *fakeEtcd) ask(_ context.Context, on node, path string, body, into any) error {
	if !slices.Contains(f.up, on.Name) {
		return errors.New("connection refused")
	}
	if len(f.up)*2 <= len(f.members) {
		return context.DeadlineExceeded
	}
	b, _ := json.Marshal(body)
	f.asked = append(f.asked, strings.TrimPrefix(path, "/v3/cluster/member/")+" "+string(b))
	switch path {
	case "/v3/cluster/member/remove":
		var r struct{ ID string }
		_ = json.Unmarshal(b, &r)
		f.members = slices.DeleteFunc(f.members, func(m member) bool { return m.ID == r.ID })
	case "/v3/cluster/member/add":
		var r struct{ PeerURLs []string }
		_ = json.Unmarshal(b, &r)
		f.members = append(f.members, member{ID: fmt.Sprint(100 + len(f.asked)), PeerURLs: r.PeerURLs})
	}
	answer, _ := json.Marshal(map[string]any{"members": f.members})
	return json.Unmarshal(answer, into)
}

func etcdOf(c cluster, up ...string) *fakeEtcd {
	f := &fakeEtcd{up: up}
	for i, s := range c.servers() {
		f.members = append(f.members, member{ID: fmt.Sprint(i + 1), Name: s.Name, PeerURLs: []string{peerURL(s)}})
	}
	return f
}

func TestReplaceMember(t *testing.T) {
	c := testCluster(t)
	lost := c.Nodes[1]
	f := etcdOf(c, "server1", "server3")
	if err := memberAPI(f.ask).replace(t.Context(), c, lost); err != nil {
		t.Fatal(err)
	}
	if len(f.members) != 3 || f.members[2].ID == "2" || !slices.Equal(f.members[2].PeerURLs, []string{peerURL(lost)}) {
		t.Errorf("members %+v after %q", f.members, f.asked)
	}
	// Once more, as after a power loss before it had begun: the one that never started goes.
	if err := memberAPI(f.ask).replace(t.Context(), c, lost); err != nil || len(f.members) != 3 {
		t.Errorf("%v: %+v", err, f.members)
	}
	f = etcdOf(c, "server3")
	if err := memberAPI(f.ask).replace(t.Context(), c, lost); err == nil || len(f.asked) != 0 {
		t.Errorf("without a quorum: %v after %q", err, f.asked)
	}
}

func TestMemberLoss(t *testing.T) {
	c := testCluster(t)
	data := func(p paths, n node) {
		t.Helper()
		if err := os.MkdirAll(p.etcd(n), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s1, s2, agent := c.Nodes[0], c.Nodes[1], c.Nodes[4]
	p := paths(t.TempDir())
	if l := p.memberLoss(c, s1); l != memberWhole {
		t.Errorf("a new cluster: %d", l)
	}
	data(p, s1)
	if l := p.memberLoss(c, s2); l != memberLate {
		t.Errorf("one that others were quicker than: %d", l)
	}
	if l := p.memberLoss(c, agent); l != memberWhole {
		t.Errorf("an agent: %d", l)
	}
	data(p, s2)
	if err := p.noteMember(s2); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(p.etcd(s2)); err != nil {
		t.Fatal(err)
	}
	if l := p.memberLoss(c, s2); l != memberWithout {
		t.Errorf("one that lost its data: %d", l)
	}
	m := &machine{node: s2, paths: p, cluster: c, log: slog.New(slog.DiscardHandler), ask: etcdOf(c, "server1", "server3").ask}
	if err := m.restoreMember(t.Context(), memberWithout); err != nil || !exists(p.memberAdded(s2.Name)) {
		t.Errorf("restore: %v", err)
	}
	data(p, s2)
	if err := p.noteMember(s2); err != nil || exists(p.memberAdded(s2.Name)) {
		t.Errorf("it joins for ever: %v", err)
	}
}

func TestMembersThatCannotBeRestored(t *testing.T) {
	c := testCluster(t)
	p := paths(t.TempDir())
	m := &machine{node: c.Nodes[1], paths: p, cluster: c, log: slog.New(slog.DiscardHandler), ask: etcdOf(c, "server3").ask}
	if err := m.restoreMember(t.Context(), memberLate); err != nil || exists(p.memberAdded("server2")) {
		t.Errorf("a member of a new cluster has to start as one: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.restoreMember(ctx, memberWithout); err == nil || !strings.Contains(m.problem, "more than half") {
		t.Errorf("without a quorum: %v, %q", err, m.problem)
	}
	m.cluster.Nodes = c.Nodes[:1]
	m.node = c.Nodes[0]
	if err := m.restoreMember(t.Context(), memberWithout); !errors.Is(err, errLastMember) {
		t.Errorf("the only server: %v", err)
	}
}

func TestJoinExisting(t *testing.T) {
	c := testCluster(t)
	i := initConfig{Services: nodeServices(c, c.Nodes[0], networks[c.Plugin])}
	if flags := strings.Join(i.Services[0].Args, " "); !strings.Contains(flags, "--initial-cluster-state=new") {
		t.Fatalf("%s", flags)
	}
	i.joinExisting()
	if flags := strings.Join(i.Services[0].Args, " "); !strings.Contains(flags, "--initial-cluster-state=existing") {
		t.Errorf("%s", flags)
	}
}

// The others let nobody in for a moment; until then it does not start as the member it was.
func TestMemberIsAddedLater(t *testing.T) {
	c, p := testCluster(t), paths(t.TempDir())
	f := etcdOf(c, "server1", "server3")
	refused := 0
	ask := func(ctx context.Context, on node, path string, body, into any) error {
		if strings.HasSuffix(path, "/add") && refused == 0 {
			refused++
			return errors.New("etcdserver: unhealthy cluster")
		}
		return f.ask(ctx, on, path, body, into)
	}
	m := &machine{node: c.Nodes[1], paths: p, cluster: c, log: slog.New(slog.DiscardHandler), ask: ask}
	if err := m.restoreMember(t.Context(), memberLate); err != nil || !exists(p.memberAdded("server2")) || len(f.members) != 3 {
		t.Errorf("%v: %+v", err, f.members)
	}
}

// A node whose services end again and again has not started.
func TestSteady(t *testing.T) {
	status := func(state string) machineStatus {
		return machineStatus{Running: true, PID: 7, Services: []serviceStatus{{State: "running"}, {State: state}}}
	}
	for state, want := range map[string]bool{"running": true, "waiting": true, "exited": false, "failed": false, "": false} {
		if _, err := status(state).steady(); (err == nil) != want {
			t.Errorf("%q: %v", state, err)
		}
	}
	if _, err := (machineStatus{Problem: "x"}).steady(); err == nil || !strings.Contains(err.Error(), "x") {
		t.Errorf("a node that does not run: %v", err)
	}
}
