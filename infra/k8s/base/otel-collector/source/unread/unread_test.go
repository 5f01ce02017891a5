package unread

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/stanza/entry"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/stanza/operator/helper"
	"go.opentelemetry.io/collector/component/componenttest"
)

// folder of one container's logs.
type folder struct {
	t   *testing.T
	dir string
	*ledger
}

func newFolder(t *testing.T) folder {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "apps_a_1", "c")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	pods := filepath.Dir(filepath.Dir(dir))
	return folder{t, dir, &ledger{
		include: []string{pods + "/*/*/*.log", pods + "/*/*/*.log.*"}, exclude: []string{pods + "/*/*/*.tmp", pods + "/own_*/*/*"},
	}}
}

func (f folder) path(name string) string { return filepath.Join(f.dir, name) }

func (f folder) write(name string, size int) {
	f.t.Helper()
	if err := os.WriteFile(f.path(name), []byte(strings.Repeat("x", size)), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f folder) rename(from, to string) {
	f.t.Helper()
	if err := os.Rename(f.path(from), f.path(to)); err != nil {
		f.t.Fatal(err)
	}
}

func (f folder) remove(name string) {
	f.t.Helper()
	if err := os.Remove(f.path(name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f folder) want(when string, lost ...int64) {
	f.t.Helper()
	var got []int64
	for range patience + 1 {
		for _, l := range f.look() {
			got = append(got, l.bytes)
		}
	}
	if slices.Sort(got); !slices.Equal(got, lost) {
		f.t.Errorf("%s: lost %d, want %d", when, got, lost)
	}
}

func TestLost(t *testing.T) {
	f := newFolder(t)
	f.want("nothing there")
	f.write("0.log", 100)
	f.want("new")
	f.read(f.path("0.log"), 0, 60)
	f.rename("0.log", "0.log.1")
	f.write("0.log", 30)
	f.look()
	f.read(f.path("0.log"), 60, 10) // of the one that was set aside: it is read on under its old name
	f.read(f.path("0.log"), 0, 30)
	f.remove("0.log.1")
	f.want("deleted before it was read", 30)
	f.remove("0.log")
	f.want("deleted after it was read")
	f.write("0.log", 50)
	f.want("new again")
	f.remove("0.log")
	f.want("deleted and never read", 50)
}

// TestQuick: what was read before we looked was read.
func TestQuick(t *testing.T) {
	f := newFolder(t)
	f.want("nothing there")
	f.write("0.log", 20)
	f.read(f.path("0.log"), 0, 20)
	f.look()
	f.rename("0.log", "0.log.1")
	f.write("0.log", 10)
	f.read(f.path("0.log"), 0, 10)
	f.remove("0.log.1")
	f.remove("0.log")
	f.want("all was read")
}

// TestLate: the reader has a file open and reads it to its end although it has no name any more.
func TestLate(t *testing.T) {
	f := newFolder(t)
	f.want("nothing there")
	f.write("0.log", 100)
	f.look()
	f.read(f.path("0.log"), 0, 60)
	f.remove("0.log")
	if lost := f.look(); len(lost) > 0 {
		t.Errorf("given up at once: %v", lost)
	}
	f.read(f.path("0.log"), 60, 40)
	f.want("read to its end")
}

// TestWithPod: what goes with its pod is told from what a kubelet deletes to make room.
func TestWithPod(t *testing.T) {
	for _, withPod := range []bool{false, true} {
		f := newFolder(t)
		f.want("nothing there")
		f.write("0.log", 100)
		f.look()
		f.remove("0.log")
		if withPod {
			if err := os.RemoveAll(f.dir); err != nil {
				t.Fatal(err)
			}
		}
		var lost []loss
		for range patience + 1 {
			lost = append(lost, f.look()...)
		}
		if !slices.Equal(lost, []loss{{100, withPod}}) {
			t.Errorf("%v, with the pod: %t", lost, withPod)
		}
	}
}

// TestInodeAgain: file systems give the number of a deleted file to the next.
func TestInodeAgain(t *testing.T) {
	f := newFolder(t)
	f.look()
	f.note(f.path("0.log"), 7, 100)
	f.looks++
	f.note(f.path("1.log"), 7, 10)
	f.note(f.path("2.log"), 8, 100)
	f.looks++
	f.note(f.path("2.log"), 8, 10) // set aside and deleted, and made anew
	f.want("four files", 10, 10, 100, 100)
}

func TestNotLost(t *testing.T) {
	f := newFolder(t)
	f.write("0.log", 100)
	f.write("0.log.0", 100)
	f.want("there when we came")
	f.remove("0.log.0")
	f.want("perhaps read by another before us")
	f.read(f.path("0.log"), 40, 20)
	f.remove("0.log")
	f.want("read from, and not to its end", 40)
}

func TestCompressed(t *testing.T) {
	f := newFolder(t)
	f.want("nothing there")
	f.write("0.log", 100)
	f.want("new")
	f.read(f.path("0.log"), 0, 40)
	f.rename("0.log", "0.log.1")
	f.want("set aside")
	f.write("0.log.1.tmp", 9)
	f.want("while it is compressed")
	f.rename("0.log.1.tmp", "0.log.1.gz")
	f.remove("0.log.1")
	f.want("compressed")
	f.read(f.path("0.log.1.gz"), 0, 25)
	f.remove("0.log.1.gz")
	f.want("deleted", 35)
	f.write("1.log.7.gz", 10)
	f.want("never seen as it was")
	f.remove("1.log.7.gz")
	f.want("so nothing is said of it")
}

func TestOperator(t *testing.T) {
	f := newFolder(t)
	set := componenttest.NewNopTelemetrySettings()
	c := Config{TransformerConfig: helper.NewTransformerConfig(operatorType, operatorType), Include: f.include}
	built, err := c.Build(set)
	if err != nil {
		t.Fatal(err)
	}
	w := built.(*watcher)
	if err := w.Start(nil); err != nil {
		t.Fatal(err)
	}
	f.write("0.log", 10)
	w.files.look()
	e := entry.New()
	e.Body = "12345"
	e.Attributes = map[string]any{pathAttribute: f.path("0.log"), offsetAttribute: int64(0), "kept": "x"}
	if err := w.ProcessBatch(context.Background(), []*entry.Entry{e}); err != nil {
		t.Fatal(err)
	}
	if _, ok := e.Attributes[offsetAttribute]; ok || e.Attributes["kept"] != "x" || e.Attributes[pathAttribute] == nil {
		t.Errorf("attributes %v", e.Attributes)
	}
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	f.remove("0.log")
	f.ledger = w.files
	f.want("the line and its break were read", 4)
	for _, bad := range []Config{{}, {Include: []string{"["}}, {Include: []string{"x"}, Exclude: []string{"["}}} {
		bad.TransformerConfig = c.TransformerConfig
		if _, err := bad.Build(set); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
