package native

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/beneath"
)

// Where a node sees the store of shared layers, and whom it asks for one.
const (
	nodeLayers      = "/opt/orrery/layers"
	nodeLayerSocket = "/run/orrery/layers.sock"
)

// Below the node's /var: its images, and where the snapshotter keeps its snapshots.
const (
	nodeImages    = "lib/containerd"
	nodeSnapshots = nodeImages + "/io.containerd.snapshotter.v1.overlayfs/snapshots"
)

// layerTurn is how long others wait for the node that unpacks a layer before they unpack
// one for themselves.
const layerTurn = 20 * time.Second

// layerStore keeps the layers that all nodes share: LAYERS/<chain ID>/fs is the unpacked
// content, layer.json what it must be. A node unpacks a layer in its own folder, containerd
// verifies it, and the store takes it over by renaming it; nodes see the store read-only.
type layerStore struct {
	paths paths
	root  *os.Root // of the state directory: nothing outside is touched
	log   *slog.Logger

	mu        sync.Mutex
	making    map[string]chan struct{} // by chain ID; closed when the turn ends
	listeners map[string]net.Listener  // by node
	recording sync.WaitGroup
	record    sync.Mutex // one layer is read at a time
}

func newLayerStore(p paths, log *slog.Logger) (*layerStore, error) {
	if err := os.MkdirAll(p.layers(), 0o755); err != nil {
		return nil, fmt.Errorf("store of layers: %w", err)
	}
	root, err := os.OpenRoot(string(p))
	if err != nil {
		return nil, fmt.Errorf("store of layers: %w", err)
	}
	return &layerStore{paths: p, root: root, log: log, making: map[string]chan struct{}{}, listeners: map[string]net.Listener{}}, nil
}

// listen answers a node on a socket of its own. Idempotent.
func (s *layerStore) listen(node string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listeners[node] != nil {
		return nil
	}
	at := s.paths.layerSocket(node)
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", at)
	if err != nil {
		return fmt.Errorf("socket for layers: %w", err)
	}
	if err := os.Chmod(at, 0o600); err != nil {
		l.Close()
		return err
	}
	s.listeners[node] = l
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(node, c)
		}
	}()
	return nil
}

// close ends conversations to come and waits for what is being written.
func (s *layerStore) close() {
	s.mu.Lock()
	for _, l := range s.listeners {
		l.Close()
	}
	s.mu.Unlock()
	s.recording.Wait()
	s.root.Close()
}

// layerRequest and layerAnswer are lines of JSON. The node's side, which explains them, is
// infra/native/containerd/layers/keeper.go.
type layerRequest struct {
	Chain string `json:"chain,omitempty"`
	Adopt string `json:"adopt,omitempty"`
}

type layerAnswer struct {
	State  string `json:"state"` // have | turn | adopted | private
	Detail string `json:"detail,omitempty"`
}

var (
	chainID    = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	snapshotID = regexp.MustCompile(`^[0-9]{1,12}$`)
)

// serve speaks with one node about one layer.
func (s *layerStore) serve(node string, conn net.Conn) {
	defer conn.Close()
	in := json.NewDecoder(io.LimitReader(conn, 4096))
	say := func(a layerAnswer) bool { return json.NewEncoder(conn).Encode(a) == nil }
	var r layerRequest
	if in.Decode(&r) != nil {
		return
	}
	if !chainID.MatchString(r.Chain) {
		say(layerAnswer{"private", fmt.Sprintf("%.100q is no chain ID", r.Chain)})
		return
	}
	state, detail, end := s.turn(r.Chain, layerTurn)
	if end == nil {
		say(layerAnswer{state, detail})
		return
	}
	defer end()
	if !say(layerAnswer{state, detail}) {
		return
	}
	chain := r.Chain
	r = layerRequest{}
	if in.Decode(&r) != nil { // the node gave up, or died
		return
	}
	if err := s.adopt(node, r.Adopt, chain); err != nil {
		s.log.Warn("a layer is not shared", "node", node, "layer", chain, "error", err)
		say(layerAnswer{"private", err.Error()})
		return
	}
	say(layerAnswer{State: "adopted"})
}

// turn waits until the layer is in the store or it is the caller's turn to unpack it; then
// end is not nil and must be called.
func (s *layerStore) turn(chain string, limit time.Duration) (state, detail string, end func()) {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		if exists(s.paths.layer(chain)) {
			s.mu.Unlock()
			return "have", "", nil
		}
		busy := s.making[chain]
		if busy == nil {
			done := make(chan struct{})
			s.making[chain] = done
			s.mu.Unlock()
			return "turn", "", func() {
				s.mu.Lock()
				delete(s.making, chain)
				s.mu.Unlock()
				close(done)
			}
		}
		s.mu.Unlock()
		select {
		case <-busy:
		case <-timeout.C:
			return "private", fmt.Sprintf("another node has been unpacking it for %s", limit), nil
		}
	}
}

// adopt moves what a node unpacked into the store and leaves a link to it in its place.
// Until the link is there, the node has nothing at that place: it asks before it commits
// the snapshot, so nothing uses it.
func (s *layerStore) adopt(node, snapshot, chain string) error {
	if !snapshotID.MatchString(snapshot) {
		return fmt.Errorf("%.100q is no snapshot", snapshot)
	}
	// The node can lay a link anywhere in its /var at any time: none is followed.
	own, err := beneath.Path(s.paths.nodeVar(node), filepath.Join(nodeSnapshots, snapshot))
	if err != nil {
		return err
	}
	defer own.Close()
	if err := isFolder(own, "fs"); err != nil {
		return fmt.Errorf("%s holds no unpacked layer: %w", own.Name(), err)
	}
	name := strings.TrimPrefix(chain, "sha256:")
	making, final := filepath.Join("layers", ".making-"+name), filepath.Join("layers", name)
	if err := errors.Join(s.root.RemoveAll(making), s.root.Mkdir(making, 0o755)); err != nil {
		return err
	}
	to, err := s.root.Open(making)
	if err != nil {
		return errors.Join(err, s.root.RemoveAll(making))
	}
	defer to.Close()
	here, there := int(own.Fd()), int(to.Fd())
	if err := unix.Renameat(here, "fs", there, "fs"); err != nil {
		if errors.Is(err, unix.EXDEV) {
			err = fmt.Errorf("node and store are on different file systems: %w", err)
		}
		return errors.Join(fmt.Errorf("move %s/fs into the store: %w", own.Name(), err), s.root.RemoveAll(making))
	}
	back := func(err error) error {
		return errors.Join(err, unix.Renameat(there, "fs", here, "fs"), s.root.RemoveAll(making))
	}
	if err := isFolder(to, "fs"); err != nil { // another one than a moment ago
		return back(err)
	}
	if err := s.note(making, layerRecord{Version: layerVersion, Chain: chain, Boot: bootID()}); err != nil {
		return back(err)
	}
	if err := unix.Symlinkat(filepath.Join(nodeLayers, name, "fs"), here, "fs"); err != nil {
		return back(err)
	}
	if err := s.root.Rename(making, final); err != nil {
		return back(errors.Join(err, unix.Unlinkat(here, "fs", 0)))
	}
	s.recording.Go(func() {
		if err := s.measure(chain); err != nil {
			s.log.Warn("a layer is shared and cannot be measured; the next start looks again", "layer", chain, "error", err)
		}
	})
	return nil
}

// isFolder is nil when name in dir is a folder, and no link to one.
func isFolder(dir *os.File, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	return nil
}

// recover looks at the store before nodes start. What is damaged goes, and with it the
// image data of the nodes that used it: they pull again. What no node uses goes too.
func (s *layerStore) recover(ctx context.Context) error {
	entries, err := os.ReadDir(s.paths.layers())
	if err != nil {
		return fmt.Errorf("store of layers: %w", err)
	}
	users := s.users()
	present := map[string]bool{}
	for _, e := range entries {
		name := e.Name()
		var problem error
		switch {
		case strings.HasPrefix(name, "."):
			problem = errors.New("left by an interrupted adoption")
		case len(users[name]) == 0:
			problem = errors.New("no node uses it")
		default:
			problem = s.trust("sha256:" + name)
		}
		if problem == nil {
			present[name] = true
			continue
		}
		s.log.Info("a layer is removed", "layer", name, "why", problem)
		if err := s.root.RemoveAll(filepath.Join("layers", name)); err != nil {
			return fmt.Errorf("remove layer %s: %w", name, err)
		}
	}
	reset := map[string]bool{}
	for name, nodes := range users {
		for _, n := range nodes {
			if !present[name] && !reset[n] {
				reset[n] = true
				s.log.Warn("the node loses its images and pulls them again: a shared layer was damaged or is gone", "node", n, "layer", name)
				if err := s.forget(n); err != nil {
					return fmt.Errorf("images of %s: %w", n, err)
				}
			}
		}
	}
	return ctx.Err()
}

// forget removes the image data of a node, and nothing that a link of the node leads to.
func (s *layerStore) forget(node string) error {
	own, err := os.OpenRoot(s.paths.nodeVar(node))
	if err != nil {
		return err
	}
	defer own.Close()
	return own.RemoveAll(nodeImages)
}

// users lists the nodes with a link to each layer.
func (s *layerStore) users() map[string][]string {
	users := map[string][]string{}
	nodes, _ := os.ReadDir(s.paths.join("nodes"))
	for _, n := range nodes {
		own, err := os.OpenRoot(s.paths.nodeVar(n.Name()))
		if err != nil {
			continue // it never ran
		}
		links, _ := fs.Glob(own.FS(), nodeSnapshots+"/*/fs")
		for _, l := range links {
			to, err := own.Readlink(l)
			if err != nil {
				continue // a folder: the node's own
			}
			name := filepath.Base(filepath.Dir(to))
			users[name] = append(users[name], n.Name())
		}
		own.Close()
	}
	return users
}
