package environment

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/driver/fake"
	"github.com/orrery-dev/orrery/internal/failure"
)

func TestEtcdOfAClusterOfOthers(t *testing.T) {
	e := &Environment{Kind: driver.Kind{Name: "existing"}, Driver: struct{ driver.Driver }{}}
	_, snapshot := e.SnapshotEtcd(t.Context(), "x", false)
	_, rotate := e.RotateAtRest(t.Context(), nil)
	for _, err := range []error{snapshot, e.RestoreEtcd(t.Context(), "x", nil), rotate} {
		if err == nil || !strings.Contains(err.Error(), "existing driver has no etcd of its own") {
			t.Errorf("%v", err)
		}
	}
}

// A snapshot is a file of its owner's that is whole, or none; what was there stays until it is.
func TestSnapshotAndRestore(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	p := s.open(Selection{})
	defer p.Close()
	ctx, file := t.Context(), filepath.Join(t.TempDir(), "s.db")
	snapshot, err := p.SnapshotEtcd(ctx, file, false)
	if err != nil || snapshot.File != file || snapshot.Node != "server1" || snapshot.Bytes == 0 {
		t.Fatalf("%+v, %v", snapshot, err)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 || st.Size() != snapshot.Bytes {
		t.Errorf("%v, %v", st, err)
	}
	if _, err := p.SnapshotEtcd(ctx, file, false); !failure.IsUsage(err) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("%v", err)
	}
	if _, err := p.SnapshotEtcd(ctx, filepath.Dir(file), true); !failure.IsUsage(err) || !strings.Contains(err.Error(), "is no file") {
		t.Errorf("%v", err)
	}
	s.cluster.Fail("SnapshotEtcd", fake.Fault{Times: 1, Error: "the member went away", Late: true})
	if _, err := p.SnapshotEtcd(ctx, file, true); err == nil || !strings.Contains(err.Error(), "the member went away") {
		t.Errorf("%v", err)
	}
	if st, err := os.Stat(file); err != nil || st.Size() != snapshot.Bytes {
		t.Errorf("what was there before: %v, %v", st, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
		t.Errorf("left beside it: %v", left)
	}

	var steps []string
	step := func(name string) { steps = append(steps, name) }
	damaged := filepath.Join(t.TempDir(), "bad.db")
	if err := os.WriteFile(damaged, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.RestoreEtcd(ctx, damaged, step); !failure.IsUsage(err) || len(steps) > 0 || slices.Contains(s.cluster.Calls(), "RestoreEtcd") {
		t.Errorf("%v after %v", err, steps)
	}
	if err := p.RestoreEtcd(ctx, file, step); err != nil || !slices.Equal(steps, []string{"restore", "start"}) {
		t.Errorf("%v after %v", err, steps)
	}
	for method, want := range map[string]string{
		"RestoreEtcd": "the environment is stopped: 'orrery start --env small' starts it",
		"Prepare":     "is kept in " + p.StateDir, "Ensure": "is kept in " + p.StateDir, "Ready": "is kept in " + p.StateDir,
	} {
		s.cluster.Fail(method, fake.Fault{Times: 1, Error: "it broke", Late: method == "RestoreEtcd"})
		if err := p.RestoreEtcd(ctx, file, step); err == nil || !strings.Contains(err.Error(), "it broke") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", method, err)
		}
		if err := p.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if p.wayBack(nil) != "no member had data before" {
		t.Error(p.wayBack(nil))
	}
}

func TestRotateAtRest(t *testing.T) {
	s := newSmall(t)
	s.mustUp(Selection{})
	p := s.open(Selection{})
	defer p.Close()
	if done, err := p.RotateAtRest(t.Context(), nil); err != nil || done.From == done.To {
		t.Errorf("%+v, %v", done, err)
	}
	s.cluster.Fail("RotateAtRest", fake.Fault{Error: "half of it"})
	if _, err := p.RotateAtRest(t.Context(), nil); err == nil || !strings.Contains(err.Error(), `rotate the key of environment "small": half of it`) {
		t.Errorf("%v", err)
	}
}

// What cannot be backed up, or not into that file, or restored, is refused before anything is asked.
func TestDataMistakes(t *testing.T) {
	s := newSmall(t)
	p := s.open(Selection{})
	defer p.Close()
	there := filepath.Join(t.TempDir(), "there.tar")
	if err := os.WriteFile(there, []byte("no backup"), 0o600); err != nil {
		t.Fatal(err)
	}
	backup := func(store, file string, force bool) error {
		_, err := p.BackupData(t.Context(), store, file, force)
		return err
	}
	restore := func(store, file string) error { _, err := p.RestoreData(t.Context(), store, file, nil); return err }
	for want, err := range map[string]error{
		`there is no data store "mysql": want nats`: backup("mysql", there, true),
		"nodetool":                      backup("scylladb", there, true),
		"with its operator":             restore("foundationdb", there),
		"is there already":              backup("nats", there, false),
		"no such file":                  restore("nats", there+"x"),
		"no backup that 'orrery data b": restore("nats", there),
	} {
		if !failure.IsUsage(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := backup("nats", there, true); err == nil || !strings.Contains(err.Error(), "is absent and has no kubeconfig") {
		t.Errorf("of an environment that is not: %v", err)
	}
	s.mustUpWith(p)
	if err := backup("nats", there, true); err == nil {
		t.Error("a backup of a NATS that is not there")
	}
	if text, err := os.ReadFile(there); err != nil || string(text) != "no backup" {
		t.Errorf("a backup that failed took what was there: %q, %v", text, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(there)); len(left) != 1 {
		t.Errorf("left beside it: %v", left)
	}
}

// mustUpWith is mustUp with a platform that is open.
func (s *small) mustUpWith(p *Platform) {
	s.t.Helper()
	planned, err := p.Plan(s.t.Context(), true)
	if err == nil {
		_, err = p.Apply(s.t.Context(), planned, false)
	}
	if err != nil {
		s.t.Fatal(errors.Join(err, p.Close()))
	}
}
