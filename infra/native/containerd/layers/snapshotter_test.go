package layers

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
)

const (
	lowChain  = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	highChain = "sha256:ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

// fakeKeeper answers the requests of one connection after the other.
type fakeKeeper struct {
	answers map[string]answer // by what was asked for
	adopt   func(id string)   // before the answer to an offer
	asked   chan string
	closed  chan struct{} // a connection ended
}

func (k *fakeKeeper) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			in := json.NewDecoder(c)
			for {
				var r request
				if in.Decode(&r) != nil {
					k.closed <- struct{}{}
					return
				}
				what := r.Chain
				if r.Adopt != "" {
					what = "adopt"
					k.adopt(r.Adopt)
				}
				k.asked <- what
				_ = json.NewEncoder(c).Encode(k.answers[what])
			}
		}()
	}
}

func newTest(t *testing.T, answers map[string]answer) (*snapshotter, *fakeKeeper) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the overlay snapshotter sets owners and extended attributes")
	}
	dir, err := os.MkdirTemp("/var/tmp", "layers") // overlayfs must not lie on itself
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	inner, err := overlay.NewSnapshotter(filepath.Join(dir, "own"), overlay.AsynchronousRemove)
	if err != nil {
		t.Skipf("no overlayfs here: %v", err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	k := &fakeKeeper{answers: answers, adopt: func(string) {}, asked: make(chan string, 10), closed: make(chan struct{}, 10)}
	go k.serve(l)
	s := newSnapshotter(inner, filepath.Join(dir, "store"), filepath.Join(dir, "s"))
	t.Cleanup(func() { l.Close(); s.Close() })
	return s, k
}

func label(chain string) snapshots.Opt {
	return snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: chain})
}

func store(t *testing.T, s *snapshotter, chain string) string {
	t.Helper()
	dir := filepath.Join(s.store, chain[7:], "fs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "program-"+chain[7:9]), []byte("shared"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestStoredLayersAreNotUnpacked(t *testing.T) {
	s, k := newTest(t, map[string]answer{lowChain: {State: stateHave}, highChain: {State: stateHave}})
	ctx := context.Background()
	low, high := store(t, s, lowChain), store(t, s, highChain)
	for _, l := range []struct{ key, parent, chain string }{{"a", "", lowChain}, {"b", lowChain, highChain}} {
		mounts, err := s.Prepare(ctx, l.key, l.parent, label(l.chain))
		if err != nil {
			t.Fatal(err)
		}
		// What containerd takes for staged content, see isStaged of its unpacker.
		if !mounts[len(mounts)-1].ReadOnly() {
			t.Fatalf("the mounts %v are writable: containerd would unpack", mounts)
		}
		if err := s.Commit(ctx, l.chain, l.key, label(l.chain)); err != nil {
			t.Fatal(err)
		}
	}
	mounts, err := s.Prepare(ctx, "container", highChain)
	if err != nil {
		t.Fatal(err)
	}
	if want := "lowerdir=" + high + ":" + low; !strings.Contains(strings.Join(mounts[0].Options, " "), want) {
		t.Fatalf("a container mounts %v, want %s", mounts, want)
	}
	again, err := s.Mounts(ctx, "container")
	if err != nil || strings.Join(again[0].Options, " ") != strings.Join(mounts[0].Options, " ") {
		t.Errorf("a second look: %v, %v", again, err)
	}
	err = mount.WithTempMount(ctx, mounts, func(root string) error {
		// A container that writes, or changes an owner, changes its own copy.
		for _, p := range []string{"program-00", "program-ff"} {
			if err := os.WriteFile(filepath.Join(root, p), []byte("changed"), 0o644); err != nil {
				return err
			}
		}
		return os.Chown(filepath.Join(root, "program-00"), 1, 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{filepath.Join(low, "program-00"), filepath.Join(high, "program-ff")} {
		if b, err := os.ReadFile(p); string(b) != "shared" {
			t.Errorf("%s now holds %q, %v", p, b, err)
		}
	}
	view, err := s.View(ctx, "view", lowChain)
	if err != nil || view[0].Source != low || !view[0].ReadOnly() {
		t.Errorf("a view is %v, %v; want %s, read-only", view, err, low)
	}
	// Removing the image here leaves the store alone.
	for _, key := range []string{"container", "view", highChain, lowChain} {
		if err := s.Remove(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(low, "program-00")); err != nil {
		t.Error(err)
	}
	if len(k.asked) != 2 {
		t.Errorf("%d questions, want 2: containers' snapshots are not layers", len(k.asked))
	}
}

func TestTurn(t *testing.T) {
	for name, c := range map[string]struct {
		answer answer
		adopts bool
	}{
		"adopted": {answer{State: stateAdopted}, true},
		"refused": {answer{State: statePrivate, Detail: "another file system"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, k := newTest(t, map[string]answer{lowChain: {State: stateTurn}, "adopt": c.answer})
			ctx := context.Background()
			mounts, err := s.Prepare(ctx, "a", "", label(lowChain))
			if err != nil {
				t.Fatal(err)
			}
			if mounts[0].ReadOnly() {
				t.Fatal("a layer that must be unpacked is read-only")
			}
			own := mounts[0].Source
			k.adopt = func(id string) {
				if id != filepath.Base(filepath.Dir(own)) {
					t.Errorf("offered is %q, unpacked was %s", id, own)
				}
				if !c.adopts {
					return
				}
				if err := os.Remove(own); err != nil {
					t.Error(err)
				}
				if err := os.Symlink(store(t, s, lowChain), own); err != nil {
					t.Error(err)
				}
			}
			if err := s.Commit(ctx, lowChain, "a", label(lowChain)); err != nil {
				t.Fatal(err)
			}
			<-k.closed // the turn is over
			if _, err := s.Prepare(ctx, "container", lowChain); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestGivenUpTurnEnds(t *testing.T) {
	s, k := newTest(t, map[string]answer{lowChain: {State: stateTurn}})
	ctx := context.Background()
	if _, err := s.Prepare(ctx, "a", "", label(lowChain)); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	<-k.closed
}

// TestWithoutStore: sharing is an extra.
func TestWithoutStore(t *testing.T) {
	for name, prepare := range map[string]func(*snapshotter){
		"no keeper": func(s *snapshotter) { s.keeper.socket += "-absent" },
		"private":   func(*snapshotter) {},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newTest(t, map[string]answer{lowChain: {State: statePrivate, Detail: "why not"}})
			prepare(s)
			mounts, err := s.Prepare(context.Background(), "a", "", label(lowChain))
			if err != nil || mounts[0].ReadOnly() {
				t.Fatalf("%v, %v; want a writable snapshot", mounts, err)
			}
			if err := s.Commit(context.Background(), lowChain, "a"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPromisedLayerIsMissing: an error, and nothing stays behind.
func TestPromisedLayerIsMissing(t *testing.T) {
	s, _ := newTest(t, map[string]answer{lowChain: {State: stateHave}})
	ctx := context.Background()
	if _, err := s.Prepare(ctx, "a", "", label(lowChain)); err == nil || !strings.Contains(err.Error(), "should be in the store") {
		t.Errorf("err = %v", err)
	}
	if _, err := s.Stat(ctx, "a"); err == nil {
		t.Error("the snapshot is still there")
	}
}
