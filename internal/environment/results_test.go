package environment

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
)

func TestLastResults(t *testing.T) {
	dir := t.TempDir()
	if all, err := readResults(dir); all != nil || err != nil {
		t.Errorf("before anything was verified: %v, %v", all, err)
	}
	first := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	record := func(at time.Time, results ...CheckResult) {
		t.Helper()
		if err := recordResults(t.Context(), dir, results, at); err != nil {
			t.Fatal(err)
		}
	}
	record(first, CheckResult{"nats", "nats-jetstream", check.Succeeded, "fine", 2}, CheckResult{"cluster", "etcd", check.Succeeded, "three members", 1})
	record(first.Add(time.Hour), CheckResult{"nats", "nats-jetstream", check.Failed, "no leader", 3})
	all, err := readResults(dir)
	if err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	if r := all[0]; r.Name != "etcd" || !r.At.Equal(first) || r.State != check.Succeeded {
		t.Errorf("what was not checked again: %+v", r)
	}
	if r := all[1]; r.Name != "nats-jetstream" || !r.At.Equal(first.Add(time.Hour)) || r.State != check.Failed || r.Detail != "no leader" {
		t.Errorf("what was checked again: %+v", r)
	}
	path := filepath.Join(dir, resultsFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.WriteFile(path, []byte(`[{"component":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readResults(dir); err == nil || !strings.Contains(err.Error(), resultsFile) {
		t.Errorf("a damaged file: %v", err)
	}
	record(first, CheckResult{"nats", "nats-spread", check.Succeeded, "", 1})
	if all, err := readResults(dir); err != nil || len(all) != 1 {
		t.Errorf("after the damage: %v, %v", all, err)
	}
}
