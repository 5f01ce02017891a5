package native

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
)

const (
	testChain  = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	otherChain = "sha256:ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

func testStore(t *testing.T) *layerStore {
	t.Helper()
	dir, err := os.MkdirTemp("", "layers") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s, err := newLayerStore(paths(dir), slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// unpacked makes what containerd leaves in a node's snapshot.
func unpacked(t *testing.T, s *layerStore, node, snapshot, content string) string {
	t.Helper()
	own := s.paths.join("nodes", node, "var", nodeSnapshots, snapshot, "fs")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(own, "program"), []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("program", filepath.Join(own, "alias")); err != nil {
		t.Fatal(err)
	}
	return own
}

// conversation of a node with the store.
type conversation struct {
	t    *testing.T
	conn net.Conn
}

func ask(t *testing.T, s *layerStore, node, chain string) conversation {
	t.Helper()
	if err := os.MkdirAll(s.paths.node(node), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := s.listen(node); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", s.paths.layerSocket(node))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := conversation{t, conn}
	c.say(layerRequest{Chain: chain})
	return c
}

func (c conversation) say(r layerRequest) {
	c.t.Helper()
	if err := json.NewEncoder(c.conn).Encode(r); err != nil {
		c.t.Fatal(err)
	}
}

func (c conversation) hear(want string) layerAnswer {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var a layerAnswer
	if err := json.NewDecoder(c.conn).Decode(&a); err != nil {
		c.t.Fatal(err)
	}
	if a.State != want {
		c.t.Fatalf("the store says %+v, want %s", a, want)
	}
	return a
}

func TestLayerIsUnpackedOnce(t *testing.T) {
	s := testStore(t)
	own := unpacked(t, s, "agent1", "7", "text")
	first := ask(t, s, "agent1", testChain)
	first.hear("turn")
	second := ask(t, s, "agent2", testChain)
	other := ask(t, s, "agent2", otherChain)
	other.hear("turn") // another layer is not held up
	_ = second.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := second.conn.Read(make([]byte, 1)); err == nil {
		t.Fatalf("an answer (%d bytes) before the layer is there", n)
	}
	first.say(layerRequest{Adopt: "7"})
	first.hear("adopted")
	second.hear("have")
	ask(t, s, "agent3", testChain).hear("have")
	if to, err := os.Readlink(own); err != nil || to != nodeLayers+"/"+testChain[7:]+"/fs" {
		t.Errorf("in the place of the layer is %q, %v", to, err)
	}
	if b, err := os.ReadFile(filepath.Join(s.paths.layer(testChain), "fs", "program")); string(b) != "text" {
		t.Errorf("the store has %q, %v", b, err)
	}
	s.recording.Wait()
	var r layerRecord
	if b, err := os.ReadFile(filepath.Join(s.paths.layer(testChain), "layer.json")); err != nil || json.Unmarshal(b, &r) != nil || r.Tree == "" || r.Stamp == "" {
		t.Errorf("layer.json: %s, %v", b, err)
	}
}

func TestNodeDiesWhileUnpacking(t *testing.T) {
	s := testStore(t)
	first := ask(t, s, "agent1", testChain)
	first.hear("turn")
	second := ask(t, s, "agent2", testChain)
	first.conn.Close()
	second.hear("turn")
}

func TestSlowNodeHoldsNobodyUp(t *testing.T) {
	s := testStore(t)
	_, _, end := s.turn(testChain, time.Minute)
	defer end()
	if state, detail, end := s.turn(testChain, time.Millisecond); state != "private" || detail == "" || end != nil {
		t.Errorf("turn = %s, %q; want private and why", state, detail)
	}
}

func TestRefusedAdoption(t *testing.T) {
	for name, c := range map[string]struct {
		snapshot string
		prepare  func(t *testing.T, s *layerStore)
	}{
		"no snapshot":    {"", nil},
		"a path":         {"../7", nil},
		"absent":         {"8", nil},
		"a link already": {"9", func(t *testing.T, s *layerStore) { unpackedLink(t, s, "agent1", "9", "/etc") }},
		"outside": {"7", func(t *testing.T, s *layerStore) {
			// A node's root may have put a link there; the store lives on the host.
			base := s.paths.join("nodes", "agent1", "var", "lib")
			if err := os.RemoveAll(filepath.Join(base, "containerd")); err != nil {
				t.Fatal(err)
			}
			elsewhere := t.TempDir()
			if err := os.MkdirAll(filepath.Join(elsewhere, "io.containerd.snapshotter.v1.overlayfs/snapshots/7/fs"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(elsewhere, filepath.Join(base, "containerd")); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			unpacked(t, s, "agent1", "7", "text")
			if c.prepare != nil {
				c.prepare(t, s)
			}
			first := ask(t, s, "agent1", testChain)
			first.hear("turn")
			first.say(layerRequest{Adopt: c.snapshot})
			if a := first.hear("private"); a.Detail == "" {
				t.Error("no reason")
			}
			if exists(s.paths.layer(testChain)) {
				t.Error("it is in the store all the same")
			}
		})
	}
	s := testStore(t)
	ask(t, s, "agent1", "sha256:../../etc").hear("private")
}

func unpackedLink(t *testing.T, s *layerStore, node, snapshot, to string) {
	t.Helper()
	dir := s.paths.join("nodes", node, "var", nodeSnapshots, snapshot)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(to, filepath.Join(dir, "fs")); err != nil {
		t.Fatal(err)
	}
}

// TestRecover damages a store in which agent1 and agent2 use one layer and agent3 another.
func TestRecover(t *testing.T) {
	program := func(s *layerStore) string { return filepath.Join(s.paths.layer(testChain), "fs", "program") }
	rewrite := func(t *testing.T, s *layerStore, change func(*layerRecord)) {
		file := filepath.Join(s.paths.layer(testChain), "layer.json")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var r layerRecord
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatal(err)
		}
		change(&r)
		if _, err := writeJSON(file, r); err != nil {
			t.Fatal(err)
		}
	}
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, s *layerStore)
		kept   bool
	}{
		"nothing": {func(*testing.T, *layerStore) {}, true},
		"content, same size and time": {func(t *testing.T, s *layerStore) {
			st, err := os.Stat(program(s))
			must(t, err)
			must(t, os.WriteFile(program(s), []byte("tExt"), 0o755))
			must(t, os.Chtimes(program(s), st.ModTime(), st.ModTime()))
		}, false},
		"mode":        {func(t *testing.T, s *layerStore) { must(t, os.Chmod(program(s), 0o777)) }, false},
		"a file more": {func(t *testing.T, s *layerStore) { must(t, os.WriteFile(program(s)+"2", nil, 0o644)) }, false},
		"a file less": {func(t *testing.T, s *layerStore) { must(t, os.Remove(program(s))) }, false},
		"link": {func(t *testing.T, s *layerStore) {
			alias := filepath.Join(filepath.Dir(program(s)), "alias")
			must(t, os.Remove(alias))
			must(t, os.Symlink("/bin/sh", alias))
		}, false},
		"only times of change, as after a copy": {func(t *testing.T, s *layerStore) { must(t, os.Chmod(program(s), 0o755)) }, true},
		"gone":                                  {func(t *testing.T, s *layerStore) { must(t, os.RemoveAll(s.paths.layer(testChain))) }, false},
		"no record": {func(t *testing.T, s *layerStore) {
			must(t, os.Remove(filepath.Join(s.paths.layer(testChain), "layer.json")))
		}, false},
		"damaged record": {func(t *testing.T, s *layerStore) {
			must(t, os.WriteFile(filepath.Join(s.paths.layer(testChain), "layer.json"), []byte("{"), 0o600))
		}, false},
		"supervisor killed before it was measured": {func(t *testing.T, s *layerStore) {
			rewrite(t, s, func(r *layerRecord) { r.Tree, r.Stamp = "", "" })
		}, true},
		"power lost before it was measured": {func(t *testing.T, s *layerStore) {
			rewrite(t, s, func(r *layerRecord) { r.Tree, r.Stamp, r.Boot = "", "", "another" })
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			share := func(chain string, nodes ...string) {
				for i, n := range nodes {
					if i > 0 {
						unpackedLink(t, s, n, "3", filepath.Join(nodeLayers, chain[7:], "fs"))
						continue
					}
					unpacked(t, s, n, "3", "text")
					must(t, s.adopt(n, "3", chain))
				}
			}
			share(testChain, "agent1", "agent2")
			share(otherChain, "agent3")
			s.recording.Wait()
			must(t, os.MkdirAll(s.paths.join("layers", ".making-x"), 0o755))
			must(t, os.MkdirAll(s.paths.join("layers", strings.Repeat("a", 64), "fs"), 0o755)) // nobody's
			c.damage(t, s)
			must(t, s.recover(context.Background()))
			if got := exists(s.paths.layer(testChain)); got != c.kept {
				t.Errorf("the layer is kept: %t, want %t", got, c.kept)
			}
			for node, kept := range map[string]bool{"agent1": c.kept, "agent2": c.kept, "agent3": true} {
				if got := exists(s.paths.join("nodes", node, "var/lib/containerd")); got != kept {
					t.Errorf("images of %s are kept: %t, want %t", node, got, kept)
				}
			}
			entries, err := os.ReadDir(s.paths.layers())
			must(t, err)
			if want := map[bool]int{true: 2, false: 1}[c.kept]; len(entries) != want {
				t.Errorf("%d entries are left in the store, want %d: %v", len(entries), want, entries)
			}
			must(t, s.recover(context.Background())) // finds peace
		})
	}
}

// TestLayerSums: whatever a container could see of a layer counts.
func TestLayerSums(t *testing.T) {
	s := testStore(t)
	own := unpacked(t, s, "agent1", "7", "text")
	sum := func() string {
		tree, _, err := layerSums(own, true)
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	before := sum()
	if sum() != before {
		t.Error("two looks at the same differ")
	}
	if err := os.Chtimes(filepath.Join(own, "program"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if sum() == before {
		t.Error("a time of modification does not count")
	}
	if _, _, err := layerSums(filepath.Join(own, "absent"), true); !os.IsNotExist(err) {
		t.Errorf("err = %v, want %v", err, fs.ErrNotExist)
	}
}

// FuzzLayerConversation: whatever a node sends, the store answers or hangs up, and nothing
// but the store's own folder and the node's snapshots is touched.
func FuzzLayerConversation(f *testing.F) {
	f.Add([]byte(`{"chain":"` + testChain + `"}` + "\n" + `{"adopt":"7"}`))
	f.Add([]byte(`{"chain":"x"}`))
	f.Add([]byte(`{"chain":"` + testChain + `"}{"adopt":"../../../x"}`))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, said []byte) {
		s := testStore(t)
		unpacked(t, s, "agent1", "7", "text")
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() { s.serve("agent1", there); close(done) }()
		_ = here.SetDeadline(time.Now().Add(20 * time.Millisecond))
		go func() { _, _ = here.Write(said) }()
		buf := make([]byte, 1024)
		for {
			if _, err := here.Read(buf); err != nil {
				break
			}
		}
		here.Close()
		<-done
		s.recording.Wait()
		entries, err := os.ReadDir(string(s.paths))
		if err != nil || len(entries) != 2 {
			t.Errorf("the state directory holds %v, %v", entries, err)
		}
	})
}

func TestDoctorSeesDamagedLayer(t *testing.T) {
	s := testStore(t)
	d := &Driver{paths: s.paths}
	unpacked(t, s, "agent1", "3", "text")
	if err := s.adopt("agent1", "3", testChain); err != nil {
		t.Fatal(err)
	}
	s.recording.Wait()
	if r := d.checkLayers(context.Background()); r.State != check.Succeeded || !strings.HasPrefix(r.Message, "1 layers") {
		t.Errorf("of a good layer it says %+v", r)
	}
	if err := os.WriteFile(filepath.Join(s.paths.layer(testChain), "fs", "program"), []byte("tExt"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r := d.checkLayers(context.Background()); r.State != check.Skipped || !strings.Contains(r.Message, "content is not what it was") {
		t.Errorf("of a damaged layer it says %+v", r)
	}
}

// A node that lays links in its own /var gets at nobody else's layers, nor at the keys.
func TestLinksOfAHostileNode(t *testing.T) {
	mine := func(s *layerStore) string { return s.paths.join("nodes", "agent1", "var") }
	for name, lay := range map[string]func(s *layerStore, victim string) error{
		"snapshots": func(s *layerStore, victim string) error {
			at := filepath.Join(mine(s), nodeSnapshots)
			return errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), relink(filepath.Dir(at), filepath.Dir(filepath.Dir(victim)), filepath.Base(at)))
		},
		"a snapshot": func(s *layerStore, victim string) error {
			at := filepath.Join(mine(s), nodeSnapshots)
			return errors.Join(os.MkdirAll(at, 0o755), relink(at, filepath.Dir(victim), "7"))
		},
		"the layer": func(s *layerStore, victim string) error {
			at := filepath.Join(mine(s), nodeSnapshots, "7")
			return errors.Join(os.MkdirAll(at, 0o755), relink(at, victim, "fs"))
		},
		"all of lib": func(s *layerStore, victim string) error {
			return errors.Join(os.MkdirAll(mine(s), 0o755), relink(mine(s), s.paths.join("nodes", "agent2", "var", "lib"), "lib"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := testStore(t)
			victim := unpacked(t, s, "agent2", "7", "theirs")
			if err := lay(s, victim); err != nil {
				t.Fatal(err)
			}
			if err := s.adopt("agent1", "7", testChain); err == nil {
				t.Error("another node's layer was adopted")
			}
			if err := s.forget("agent1"); err != nil {
				t.Log(err) // it may be refused
			}
			for _, n := range s.users()[strings.TrimPrefix(testChain, "sha256:")] {
				t.Errorf("%s uses the layer", n)
			}
			if b, err := os.ReadFile(filepath.Join(victim, "program")); err != nil || string(b) != "theirs" {
				t.Errorf("agent2 has lost its layer: %q, %v", b, err)
			}
		})
	}
}

// The root of a node is laid out on the host, over what the node left in /var.
func TestRootOfAHostileNode(t *testing.T) {
	host := t.TempDir()
	for name, do := range map[string]func(b *rootBuilder){
		"dir":  func(b *rootBuilder) { b.dir("/var/cache/clang") },
		"file": func(b *rootBuilder) { b.file("/var/cache/file", "x") },
		"link": func(b *rootBuilder) { b.link("/run", "/var/cache/run") },
		"bind": func(b *rootBuilder) { b.bind(host, "/var/cache/bound", true) },
	} {
		b := &rootBuilder{root: t.TempDir()}
		if err := errors.Join(os.Mkdir(b.in("var"), 0o755), os.Symlink(host, b.in("var/cache"))); err != nil {
			t.Fatal(err)
		}
		do(b)
		if made, _ := os.ReadDir(host); b.err == nil || len(made) > 0 {
			t.Errorf("%s: %v, and on the host is %v", name, b.err, made)
		}
	}
	b := &rootBuilder{root: t.TempDir()}
	b.dir("/usr/bin")
	b.link("usr/bin", "bin")
	b.file("/bin/tool", "x")
	if b.err != nil || !exists(b.in("usr/bin/tool")) {
		t.Errorf("links inside are fine: %v", b.err)
	}
}
