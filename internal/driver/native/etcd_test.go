package native

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/driver"
)

// fakeFiles are members with files that have free pages.
type fakeFiles struct {
	size, inUse map[string]int64
	ids         map[string]uint64
	leader      string
	down        []string
	alarms      []alarm
	asked       []string
}

func filesOf(c cluster) *fakeFiles {
	f := &fakeFiles{size: map[string]int64{}, inUse: map[string]int64{}, ids: map[string]uint64{}, leader: "server1"}
	for i, n := range c.servers() {
		f.size[n.Name], f.inUse[n.Name], f.ids[n.Name] = 100, 40, uint64(i+1)
	}
	return f
}

func (f *fakeFiles) ask(_ context.Context, on node, path string, body, into any) error {
	if slices.Contains(f.down, on.Name) {
		return errors.New("connection refused")
	}
	var answer any = struct{}{}
	b, _ := json.Marshal(body)
	switch path {
	case "/v3/maintenance/status":
		answer = map[string]any{
			"header": map[string]string{"member_id": fmt.Sprint(f.ids[on.Name]), "revision": "77"}, "version": "3.7.3",
			"dbSize": fmt.Sprint(f.size[on.Name]), "dbSizeInUse": fmt.Sprint(f.inUse[on.Name]), "dbSizeQuota": "100",
			"leader": fmt.Sprint(f.ids[f.leader]), "raftIndex": "9", "raftAppliedIndex": "9", "raftTerm": "2",
		}
	case "/v3/maintenance/alarm":
		var r struct{ Action, MemberID string }
		_ = json.Unmarshal(b, &r)
		if r.Action == "DEACTIVATE" {
			f.asked = append(f.asked, "disarm "+r.MemberID)
			f.alarms = slices.DeleteFunc(f.alarms, func(a alarm) bool { return strconv.FormatUint(a.Member, 10) == r.MemberID })
		}
		answer = map[string]any{"alarms": f.alarms}
	case "/v3/kv/compaction":
		f.asked = append(f.asked, "compact "+string(b))
	case "/v3/maintenance/defragment":
		f.asked = append(f.asked, "defragment "+on.Name)
		f.size[on.Name] = f.inUse[on.Name]
	}
	b, _ = json.Marshal(answer)
	return json.Unmarshal(b, into)
}

func TestEtcdMembers(t *testing.T) {
	c := testCluster(t)
	f := filesOf(c)
	for _, m := range memberAPI(f.ask).look(t.Context(), c) {
		if !m.Healthy {
			t.Errorf("%+v", m)
		}
	}
	f.ids["server2"], f.down = 0xabc, []string{"server3"}
	f.alarms = []alarm{{0xabc, "NOSPACE"}}
	m := memberAPI(f.ask).look(t.Context(), c)
	if len(m) != 3 || !m[0].Leader || m[0].Size != 100 || m[0].InUse != 40 || m[0].Index != 9 {
		t.Errorf("%+v", m)
	}
	if m[1].ID != "abc" || m[1].Leader || m[1].Healthy || !slices.Equal(m[1].Alarms, []string{"NOSPACE"}) {
		t.Errorf("one with an alarm: %+v", m[1])
	}
	if m[0].Problem != "alarm NOSPACE of server2" {
		t.Errorf("one of others' alarm: %+v", m[0])
	}
	if m[2].Healthy || m[2].ID != "" || !strings.Contains(m[2].Problem, "refused") {
		t.Errorf("one that does not answer: %+v", m[2])
	}
	f.leader = ""
	if m := memberAPI(f.ask).look(t.Context(), c); m[0].Healthy || !strings.Contains(m[0].Problem, "no leader") {
		t.Errorf("without a leader: %+v", m[0])
	}
}

func TestDefragment(t *testing.T) {
	c := testCluster(t)
	f := filesOf(c)
	var told []driver.EtcdDefragmented
	tell := func(d driver.EtcdDefragmented) { told = append(told, d) }
	if err := memberAPI(f.ask).defragment(t.Context(), c, tell); err != nil {
		t.Fatal(err)
	}
	if want := []string{"defragment server2", "defragment server3", "defragment server1"}; !slices.Equal(f.asked, want) {
		t.Errorf("%q, want %q: the leader is last, and nothing is compacted without need", f.asked, want)
	}
	if len(told) != 3 || told[2] != (driver.EtcdDefragmented{Node: "server1", Before: 100, After: 40}) {
		t.Errorf("told %+v", told)
	}
	f = filesOf(c)
	f.down = []string{"server3"}
	if err := memberAPI(f.ask).defragment(t.Context(), c, tell); err == nil || len(f.asked) > 0 {
		t.Errorf("with one that is down: %v after %q", err, f.asked)
	}
}

func TestDefragmentDisarmsNoSpace(t *testing.T) {
	c := testCluster(t)
	f := filesOf(c)
	f.alarms = []alarm{{2, "NOSPACE"}}
	if err := memberAPI(f.ask).defragment(t.Context(), c, func(driver.EtcdDefragmented) {}); err != nil {
		t.Fatal(err)
	}
	if len(f.alarms) > 0 || !strings.HasPrefix(f.asked[0], `compact {"physical":true,"revision":"77"}`) || f.asked[len(f.asked)-1] != "disarm 2" {
		t.Errorf("alarms %v after %q", f.alarms, f.asked)
	}
	f = filesOf(c)
	f.alarms, f.inUse["server2"] = []alarm{{2, "NOSPACE"}}, 95
	err := memberAPI(f.ask).defragment(t.Context(), c, func(driver.EtcdDefragmented) {})
	if err == nil || !strings.Contains(err.Error(), "delete objects") || len(f.alarms) != 1 {
		t.Errorf("still full: %v, alarms %v", err, f.alarms)
	}
}

func TestCopySnapshot(t *testing.T) {
	var b bytes.Buffer
	if err := copySnapshot(&b, strings.NewReader(`{"result":{"blob":"YWI="}}`+"\n"+`{"result":{"remaining_bytes":"1","blob":"Yw=="}}`)); err != nil || b.String() != "abc" {
		t.Errorf("%q, %v", b.String(), err)
	}
	for content, want := range map[string]string{
		`{"result":{"blob":"YWI="}}{"error":{"message":"gone"}}`: "gone",
		`{"result":{"blob":"YW`:                                  "unexpected EOF",
	} {
		if err := copySnapshot(&b, strings.NewReader(content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", content, err)
		}
	}
}

// What fails first is not at fault when nothing can be written.
func TestStartBlamesTheDisk(t *testing.T) {
	d := &Driver{paths: paths(t.TempDir()), host: goodHost()}
	failed := errors.New("prepare the API: CustomResourceDefinition ciliumnodes.cilium.io: 500")
	if err := d.blame(t.Context(), failed); err != failed { //nolint:errorlint // nothing is to be added
		t.Errorf("with a disk that has space: %v", err)
	}
	d.host.disk = func(string) (uint64, bool, error) { return 3 << 20, false, nil }
	err := d.blame(t.Context(), failed)
	if !errors.Is(err, failed) || !strings.HasPrefix(err.Error(), "the disk of "+string(d.paths)+" is full (3 MiB are free)") {
		t.Errorf("with a full disk: %v", err)
	}
	if err := d.blame(t.Context(), nil); err != nil {
		t.Errorf("nothing failed: %v", err)
	}
	// Whoever looks at what runs is told too: the nodes' conditions stay as they were.
	if _, err := writeJSON(d.paths.cluster(), cluster{Environment: "x"}); err != nil {
		t.Fatal(err)
	}
	if o, err := d.Observe(t.Context()); err != nil || !strings.HasPrefix(o.Full, "the disk of "+string(d.paths)+" is full (3 MiB are free)") {
		t.Errorf("observed %q, %v", o.Full, err)
	}
}
