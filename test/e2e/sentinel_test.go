package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
)

// TestSentinel keeps a value in a copy of this repository, as a person does, has it deployed,
// and then looks for it in all that the machine has of the environment: files of every node, the
// disks of etcd among them, arguments and environments of all processes, events and archives.
func TestSentinel(t *testing.T) {
	e := newEnvironment(t, "sentinel", "servers: 1\nagents: 0\nnetwork: {plugin: ptp}\ncomponents: [coredns, local-path, nats]\n")
	e.catalog = filepath.Join(t.TempDir(), "clone")
	for _, name := range []string{"go.mod", "go.sum", "LICENSE", "orrery.lock", "apps", "infra", "internal", "cmd"} {
		copyOf(t, filepath.Join(repo, name), filepath.Join(e.catalog, name))
	}
	pair, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	sentinel := string(seed)
	e.run(t, "secrets", "init")
	e.runWith(t, sentinel, "secrets", "set", "messaging/nats-keys", "app-signing.seed")

	ctx, stop := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	looked := 0
	watching.Go(func() { looked = watchProcesses(ctx, t, sentinel) })
	began := time.Now()
	var said strings.Builder
	say := func(args ...string) string {
		r := e.try(t, args...)
		if r.code != 0 {
			t.Fatal(r)
		}
		said.WriteString(r.stdout + r.stderr)
		return r.stdout
	}
	say("up", "-v", "-o", "json")
	e.learnPorts()
	type secret struct{ Data map[string]string }
	live := decode[secret](t, e.run(t, "kubectl", "get", "secret", "-n", "messaging", "nats-keys", "-o", "json"))
	if got, _ := base64.StdEncoding.DecodeString(live.Data["app-signing.seed"]); string(got) != sentinel {
		t.Fatal("the value of the file is not in the Secret: nothing to look for")
	}
	archive := filepath.Join(t.TempDir(), "support.tar.gz")
	say("support", "--to", archive)
	say("diff")
	say("status", "-o", "json")
	say("secrets", "show")
	stop()
	watching.Wait()
	if looked < 20 {
		t.Errorf("only %d processes were seen", looked)
	}
	if holds([]byte(said.String()), sentinel) {
		t.Error("it was printed")
	}
	for name, content := range unpack(t, archive) {
		if holds(content, sentinel) {
			t.Errorf("%s of the support archive holds it", name)
		}
	}
	searched := search(t, e.state(), sentinel, time.Time{}) + search(t, e.catalog, sentinel, time.Time{}) + search(t, logDir, sentinel, time.Time{})
	search(t, cmp.Or(os.Getenv("ORRERY_CACHE_DIR"), "/var/cache/orrery"), sentinel, began)
	if searched < 500 {
		t.Errorf("only %d files were searched", searched)
	}
	// That the search finds what is there.
	if err := os.WriteFile(e.state("planted"), []byte("x"+base64.StdEncoding.EncodeToString(seed)), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(e.state("planted"))
	if found := filesWith(t, e.state(), sentinel, time.Time{}, nil); !slices.Equal(found, []string{e.state("planted")}) {
		t.Errorf("what was planted is not what is found: %q", found)
	}
}

// copyOf copies a file or a folder, as they are; links and what is no file are left out.
func copyOf(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || d.IsDir() || !d.Type().IsRegular() || d.Name() == "age-key.txt" || d.Name() == "data.yaml" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, rel)), 0o755); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, info.Mode().Perm())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// holds tells whether content has the text, as it is or in base64 at any offset.
func holds(content []byte, text string) bool {
	if bytes.Contains(content, []byte(text)) {
		return true
	}
	for shift := range 3 {
		// Whole groups of three bytes, whatever is before and after.
		middle := text[(3-shift)%3:]
		middle = middle[:len(middle)/3*3]
		if bytes.Contains(content, []byte(base64.StdEncoding.EncodeToString([]byte(middle)))) {
			return true
		}
	}
	return false
}

func search(t *testing.T, dir, text string, since time.Time) (looked int) {
	t.Helper()
	for _, path := range filesWith(t, dir, text, since, &looked) {
		t.Errorf("%s holds it", path)
	}
	return looked
}

// filesWith reads the files below dir that were written since; those that end meanwhile are left out.
func filesWith(t *testing.T, dir, text string, since time.Time, looked *int) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // it went away
		}
		if info, err := d.Info(); err != nil || info.ModTime().Before(since) {
			return nil //nolint:nilerr // the same
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // the same
		}
		if looked != nil {
			*looked++
		}
		if holds(data, text) {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// watchProcesses looks at every process of the machine, again and again, until ctx ends.
func watchProcesses(ctx context.Context, t *testing.T, text string) int {
	seen := map[string]bool{}
	for ctx.Err() == nil {
		pids, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			t.Error(err)
			return 0
		}
		for _, pid := range pids {
			seen[pid] = true
			for _, name := range []string{"cmdline", "environ"} {
				data, err := os.ReadFile(filepath.Join(pid, name))
				if err == nil && holds(data, text) {
					t.Errorf("%s of process %s holds it: %.60q", name, filepath.Base(pid), strings.ReplaceAll(string(data), text, "…"))
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return len(seen)
}
