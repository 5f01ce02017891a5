package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/orrery-dev/orrery/internal/driver"
)

func effect(kind, id string) driver.Effect { return driver.Effect{Kind: kind, ID: id} }

func open(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func ids(effects []driver.Effect) []string {
	out := []string{}
	for _, e := range effects {
		out = append(out, e.Kind+":"+e.ID)
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// story begins and undoes some effects and returns what is live after each line.
func story(t *testing.T, j *Journal) (live [][]string) {
	t.Helper()
	tell := func(err error) {
		t.Helper()
		must(t, err)
		live = append(live, ids(j.Live()))
	}
	tell(j.Begin(driver.Effect{Kind: "cgroup", ID: "/orrery/local", Info: map[string]string{"hierarchy": "cpu,memory"}}))
	tell(j.Begin(effect("process", "4711@99")))
	tell(j.Begin(effect("link", "br0\nwith \"odd\" bytes \x00")))
	tell(j.Undone(effect("process", "4711@99")))
	tell(j.Begin(effect("process", "4712@100")))
	return live
}

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "local", "journal")
	j := open(t, path)
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("looking at an absent journal made its folder")
	}
	story(t, j)
	want := j.Live()
	must(t, j.Close())
	if err := j.Begin(effect("a", "b")); err == nil {
		t.Error("written after Close")
	}
	again := open(t, path)
	if d := cmp.Diff(want, again.Live()); d != "" || len(want) != 3 {
		t.Errorf("another process reads something else:\n%s", d)
	}
	if want[0].Info["hierarchy"] != "cpu,memory" {
		t.Error("the info was lost")
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	if err := again.Begin(effect("", "x")); err == nil {
		t.Error("an effect without a kind was taken")
	}
}

// What is repeated costs no line; a changed info does.
func TestJournalRepeats(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	e := driver.Effect{Kind: "process", ID: "1", Info: map[string]string{"node": "a"}}
	must(t, j.Begin(e))
	before, _ := os.ReadFile(path)
	must(t, j.Begin(e))
	must(t, j.Undone(effect("process", "never begun")))
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Errorf("written again:\n%s", after)
	}
	e.Info = map[string]string{"node": "b"}
	must(t, j.Begin(e))
	if live := open(t, path).Live(); len(live) != 1 || live[0].Info["node"] != "b" {
		t.Errorf("live %+v", live)
	}
}

// A crash may cut the file anywhere: the whole lines count, the rest never happened, and
// the journal goes on.
func TestJournalTorn(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	j := open(t, path)
	after := story(t, j)
	data, err := os.ReadFile(path)
	must(t, err)
	for cut := range data {
		torn := filepath.Join(dir, fmt.Sprint("torn", cut))
		must(t, os.WriteFile(torn, data[:cut], 0o600))
		k, err := OpenJournal(torn)
		if err != nil {
			t.Fatalf("cut after %d bytes: %v", cut, err)
		}
		want := []string{}
		if whole := bytes.Count(data[:cut], []byte("\n")); whole > 1 {
			want = after[whole-2]
		}
		if d := cmp.Diff(want, ids(k.Live())); d != "" {
			t.Fatalf("cut after %d bytes:\n%s", cut, d)
		}
		if cut%7 != 0 { // syncing is slow
			must(t, k.Close())
			continue
		}
		must(t, k.Begin(effect("new", "one")))
		must(t, k.Close())
		if got := ids(open(t, torn).Live()); !slices.Equal(got, append(slices.Clone(want), "new:one")) {
			t.Fatalf("cut after %d bytes, then written and read: %v", cut, got)
		}
	}
}

func TestJournalCorrupt(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	story(t, open(t, path))
	data, err := os.ReadFile(path)
	must(t, err)
	lines := bytes.SplitAfter(data, []byte("\n"))
	for _, c := range []struct {
		name string
		line int
		with string
		want []string
	}{
		{"zeros", 3, "\x00\x00\x00\n", []string{"cgroup:/orrery/local", "link:br0\nwith \"odd\" bytes \x00", "process:4712@100"}},
		{"half a line", 2, `{"begin":{"kind":"cgr` + "\n", []string{"link:br0\nwith \"odd\" bytes \x00", "process:4712@100"}},
		{"two in one", 2, `{"undone":{"kind":"x","id":"y"}} {}` + "\n", []string{"link:br0\nwith \"odd\" bytes \x00", "process:4712@100"}},
		{"unknown field", 2, `{"begun":{"kind":"x","id":"y"}}` + "\n", []string{"link:br0\nwith \"odd\" bytes \x00", "process:4712@100"}},
		{"no header", 1, "", []string{"cgroup:/orrery/local", "link:br0\nwith \"odd\" bytes \x00", "process:4712@100"}},
		{"foreign header", 1, `{"journal":"systemd","version":1}` + "\n", []string{"cgroup:/orrery/local", "link:br0\nwith \"odd\" bytes \x00", "process:4712@100"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			damaged := slices.Clone(lines)
			damaged[c.line-1] = []byte(c.with)
			path := filepath.Join(t.TempDir(), "journal")
			must(t, os.WriteFile(path, bytes.Join(damaged, nil), 0o600))
			j, err := OpenJournal(path)
			corrupt, ok := errors.AsType[*CorruptError](err)
			if !ok || corrupt.Line != c.line || !strings.Contains(err.Error(), fmt.Sprintf("%s:%d: ", path, c.line)) || !strings.Contains(err.Error(), "orrery down") {
				t.Fatalf("got %v, want an error that names line %d and the remedy", err, c.line)
			}
			if d := cmp.Diff(c.want, ids(j.Live())); d != "" {
				t.Error(d)
			}
			must(t, j.Begin(effect("new", "one")))
			must(t, j.Close())
			if got := open(t, path).Live(); len(got) != len(c.want)+1 {
				t.Errorf("after the repair: %v", ids(got))
			}
			if kept, err := os.ReadFile(path + ".corrupt"); err != nil || !bytes.Equal(kept, bytes.Join(damaged, nil)) {
				t.Errorf("the damaged journal was not kept: %v", err)
			}
		})
	}
}

func TestJournalNewer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	data := []byte(`{"journal":"orrery.dev/effects","version":2,"checksums":true}` + "\n" + `{"b":1}` + "\n")
	must(t, os.WriteFile(path, data, 0o600))
	j, err := OpenJournal(path)
	if j != nil || !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "version 2, this orrery reads up to 1") {
		t.Errorf("got %v, %v", j, err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(data, after) {
		t.Error("a newer journal was changed")
	}
}

func TestJournalCompacts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	must(t, j.Begin(effect("directory", "/kept")))
	j.limit = 50
	for i := range 2 * j.limit {
		e := effect("process", fmt.Sprint(i))
		must(t, j.Begin(e))
		must(t, j.Undone(e))
	}
	data, err := os.ReadFile(path)
	must(t, err)
	if n := bytes.Count(data, []byte("\n")); n > j.limit+8 {
		t.Errorf("%d lines for one live effect", n)
	}
	must(t, j.Close())
	if got := ids(open(t, path).Live()); !slices.Equal(got, []string{"directory:/kept"}) {
		t.Errorf("live %v", got)
	}
}

// After a failed write nothing is appended behind the half line, and Begin says so.
func TestJournalFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("needs /dev/full")
	}
	j := open(t, filepath.Join(t.TempDir(), "journal"))
	must(t, j.Begin(effect("a", "1")))
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	j.file.Close()
	j.file = full
	for _, id := range []string{"2", "3"} {
		if err := j.Begin(effect("a", id)); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("got %v", err)
		}
	}
	if got := ids(j.Live()); !slices.Equal(got, []string{"a:1"}) {
		t.Errorf("live %v: an effect that is not on disk may not be made", got)
	}
}

func TestJournalConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 10 {
				e := effect("process", fmt.Sprint(g, "-", i))
				if err := j.Begin(e); err != nil {
					t.Error(err)
				}
				if i%2 == 0 {
					if err := j.Undone(e); err != nil {
						t.Error(err)
					}
				}
				j.Live()
			}
		})
	}
	wg.Wait()
	if got := open(t, path).Live(); len(got) != 20 {
		t.Errorf("%d live, want 20", len(got))
	}
}

func FuzzJournal(f *testing.F) {
	head := `{"journal":"orrery.dev/effects","version":1}` + "\n"
	for _, s := range []string{"", head, head + `{"begin":{"kind":"a","id":"b"}}` + "\n" + `{"undone":{"kind":"a","id":"b"}}` + "\n", head + "\n\n", `{"version":2}` + "\n", head + `{"begin":{"kind":"a","id":"b","info":{"x":"y"}}}` + "\n" + `{"beg`, "\x00\x00\n" + head, head + `{"begin":null}` + "\n"} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(dir, "journal")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := OpenJournal(path)
		if j == nil {
			if !errors.Is(err, ErrNewer) {
				t.Fatalf("no journal, and no newer version: %v", err)
			}
			return
		}
		live := j.Live()
		must(t, j.Begin(effect("new", "one")))
		must(t, j.Close())
		again, err := OpenJournal(path)
		if err != nil {
			t.Fatalf("after the repair: %v", err)
		}
		defer again.Close()
		if !slices.ContainsFunc(live, func(e driver.Effect) bool { return keyOf(e) == key{"new", "one"} }) {
			live = append(live, effect("new", "one"))
		}
		if d := cmp.Diff(ids(live), ids(again.Live())); d != "" {
			t.Errorf("after the repair:\n%s", d)
		}
	})
}
