package engine

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/plan"

	"github.com/google/go-cmp/cmp"

	"github.com/orrery-dev/orrery/internal/profile"
	"github.com/orrery-dev/orrery/internal/spec"
)

func TestState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "local")
	if _, err := LoadState(dir); !errors.Is(err, ErrNoState) {
		t.Errorf("absent: %v", err)
	}
	want := State{Spec: spec.Named("ci"), Created: time.Now().UTC().Round(0), Ports: spec.Ports{API: 30001, Registry: 30002}}
	want.Spec.Network.Plugin = spec.PluginPTP
	must(t, want.Save(dir))
	must(t, want.Save(dir)) // over itself
	got, err := LoadState(dir)
	must(t, err)
	want.Version = 1 // an older orrery can read what needs no more
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	want.Bundle = "sha256:" + strings.Repeat("0", 64)
	must(t, want.Save(dir))
	got, err = LoadState(dir)
	must(t, err)
	want.Version = 2
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	want.Spec.Network.Plugin = spec.PluginCilium
	must(t, want.Save(dir))
	got, err = LoadState(dir)
	must(t, err)
	want.Version = 3
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	want.Spec.Profile = profile.Core
	must(t, want.Save(dir))
	got, err = LoadState(dir)
	must(t, err)
	want.Version = 6
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	path := filepath.Join(dir, stateFile)
	data, err := os.ReadFile(path)
	must(t, err)
	for _, c := range []struct {
		name, content string
		newer         bool
		want          string
	}{
		{"half", string(data[:len(data)/2]), false, "is damaged: unexpected end of JSON input; `orrery down` removes"},
		{"zeros", "\x00\x00\x00", false, "is damaged"},
		{"empty", "", false, "is damaged"},
		{"no version", "{}", false, "it has no version"},
		{"unknown field", `{"version":1,"spce":{}}`, false, "unknown field \"spce\""},
		{"not valid", `{"version":1,"spec":{"name":"../../etc"}}`, false, "spec path `name`"},
		{"newer", `{"version":7,"spec":[]}`, true, "has version 7, this orrery reads up to 6"},
	} {
		must(t, os.WriteFile(path, []byte(c.content), 0o600))
		_, err := LoadState(dir)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) || errors.Is(err, ErrNewer) != c.newer {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestLock(t *testing.T) {
	root := filepath.Join(t.TempDir(), "orrery")
	dir := filepath.Join(root, "local")
	release, err := Lock(root, "local", "up")
	must(t, err)
	_, err = Lock(root, "local", "down")
	locked, ok := errors.AsType[*LockedError](err)
	if !ok || locked.Holder.PID != os.Getpid() || locked.Holder.Verb != "up" {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), "`orrery up` (PID ") {
		t.Errorf("message %q", err)
	}
	other, err := Lock(root, "other", "up")
	must(t, err)
	other()
	must(t, os.MkdirAll(dir, 0o700))
	release()
	release()
	if _, err := os.Stat(lockPath(root, "local")); err != nil {
		t.Errorf("the lock of an environment that is there: %v", err)
	}
	release, err = Lock(root, "local", "down")
	must(t, err)
	// `down` at work on the folder: whoever comes now is told so until the last file is gone.
	must(t, os.RemoveAll(dir))
	if _, err := Lock(root, "local", "up"); err == nil {
		t.Fatal("up began in the middle of a down")
	}
	release()
	if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no environment, there is left: %v", err)
	}
	next, err := Lock(root, "local", "up")
	must(t, err)
	release()
	if _, err := Lock(root, "local", "stop"); err == nil {
		t.Error("the release of a removed lock gave away the next one")
	}
	next()
}

// Verbs that come and go at once, each of which leaves no environment: never two at a time.
func TestLockOfManyDowns(t *testing.T) {
	root := filepath.Join(t.TempDir(), "orrery")
	var holders, most, done atomic.Int32
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for done.Load() < 50 {
				release, err := Lock(root, "local", "down")
				if _, ok := errors.AsType[*LockedError](err); ok {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				most.Store(max(most.Load(), holders.Add(1)))
				_ = os.MkdirAll(filepath.Join(root, "local"), 0o700)
				_ = os.RemoveAll(filepath.Join(root, "local"))
				holders.Add(-1)
				done.Add(1)
				release()
			}
		})
	}
	wait.Wait()
	if most.Load() != 1 {
		t.Errorf("%d at a time", most.Load())
	}
}

// The person's link in place of the environment's folder is nothing that keeps the lock's file.
func TestLockBehindALink(t *testing.T) {
	root, disk := t.TempDir(), t.TempDir()
	must(t, os.Symlink(disk, filepath.Join(root, "local")))
	release, err := Lock(root, "local", "down")
	must(t, err)
	release()
	entries, err := os.ReadDir(root)
	must(t, err)
	if len(entries) != 1 || entries[0].Name() != "local" {
		t.Errorf("left: %v", entries)
	}
}

// The lock of a process that was killed is free.
func TestLockOfTheDead(t *testing.T) {
	dir := t.TempDir()
	if os.Getenv("ORRERY_TEST_LOCK") != "" {
		if _, err := Lock(os.Getenv("ORRERY_TEST_LOCK"), "local", "up"); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("locked\n")
		select {}
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLockOfTheDead$")
	child.Env = append(os.Environ(), "ORRERY_TEST_LOCK="+dir)
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "locked\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
	_, err = Lock(dir, "local", "down")
	if locked, ok := errors.AsType[*LockedError](err); !ok || locked.Holder.PID != child.Process.Pid {
		t.Errorf("got %v, want the child as holder", err)
	}
	must(t, child.Process.Kill())
	_ = child.Wait() // "signal: killed"
	release, err := Lock(dir, "local", "down")
	must(t, err)
	release()
}

// Reasons that an older orrery wrote in words are read as causes; what says causes is not
// for it to read.
func TestStateCauses(t *testing.T) {
	dir := t.TempDir()
	before := State{Spec: spec.Default()}
	before.Spec.Network.Plugin = spec.PluginPTP
	if err := before.Save(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, stateFile)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	old := strings.Replace(string(data), `"version": 1,`, `"version": 1, "skipped": {"grafana": "image g not reachable: no route"},`, 1)
	if err := os.WriteFile(path, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := LoadState(dir)
	want := plan.Cause{Kind: plan.CauseOther, Root: "image g not reachable: no route"}
	if err != nil || s.Skipped["grafana"] != want {
		t.Fatalf("%+v, %v", s.Skipped, err)
	}
	if err := s.Save(dir); err != nil {
		t.Fatal(err)
	}
	if again, err := LoadState(dir); err != nil || again.Version != 4 || again.Skipped["grafana"] != want {
		t.Errorf("%+v, %v", again, err)
	}
}
