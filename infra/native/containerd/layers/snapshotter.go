package layers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
)

// snapshotter is the overlay snapshotter with layers from the store.
type snapshotter struct {
	snapshots.Snapshotter        // of overlayfs
	store                 string // where this node sees the store
	keeper                keeper

	mu    sync.Mutex
	turns map[string]*turn // by the key of the snapshot that is being unpacked
}

func newSnapshotter(overlay snapshots.Snapshotter, store, socket string) *snapshotter {
	return &snapshotter{Snapshotter: overlay, store: store, keeper: keeper{socket}, turns: map[string]*turn{}}
}

// Prepare implements [snapshots.Snapshotter]. A snapshot for a layer that the store has
// comes with a read-only mount: there is nothing to unpack.
func (s *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	var info snapshots.Info
	for _, o := range opts {
		if err := o(&info); err != nil {
			return nil, err
		}
	}
	chain := info.Labels[snapshots.LabelSnapshotRef]
	if chain == "" { // a container's, not a layer
		m, err := s.Snapshotter.Prepare(ctx, key, parent, opts...)
		return resolve(m), err
	}
	state, detail, t, err := s.keeper.ask(ctx, chain)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		log.G(ctx).WithError(err).Warn("the layer will be this node's own")
	case state == statePrivate:
		log.G(ctx).Warnf("layer %s will be this node's own: %s", chain, detail)
	}
	mounts, err := s.Snapshotter.Prepare(ctx, key, parent, opts...)
	if err != nil {
		if t != nil {
			t.end()
		}
		return nil, err
	}
	own, err := ownFolder(mounts)
	if err == nil && state == stateHave {
		err = s.stage(own, chain)
	}
	if err != nil {
		if t != nil {
			t.end()
		}
		return nil, errors.Join(err, s.Snapshotter.Remove(context.WithoutCancel(ctx), key))
	}
	if state == stateHave {
		return readOnly(resolve(mounts)), nil
	}
	if t != nil {
		t.snapshot = filepath.Base(filepath.Dir(own))
		s.mu.Lock()
		s.turns[key] = t
		s.mu.Unlock()
	}
	return resolve(mounts), nil
}

// stage puts a link to the stored layer in the place of a snapshot's empty folder.
func (s *snapshotter) stage(own, chain string) error {
	target := filepath.Join(s.store, strings.TrimPrefix(chain, "sha256:"), "fs")
	if _, err := os.Stat(target); err != nil {
		return fmt.Errorf("layer %s should be in the store: %w", chain, err)
	}
	if err := os.Remove(own); err != nil {
		return err
	}
	return os.Symlink(target, own)
}

// Commit implements [snapshots.Snapshotter]. What is committed under a turn has been
// verified by containerd (its digest is the layer's diff ID) and nobody uses it yet.
func (s *snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	if t := s.take(key); t != nil {
		defer t.end()
		if err := t.offer(); err != nil {
			log.G(ctx).WithError(err).Warnf("snapshot %s stays this node's own", t.snapshot)
		}
	}
	return s.Snapshotter.Commit(ctx, name, key, opts...)
}

// Remove implements [snapshots.Snapshotter]. Of a shared layer only this node's link goes.
func (s *snapshotter) Remove(ctx context.Context, key string) error {
	if t := s.take(key); t != nil {
		defer t.end()
	}
	return s.Snapshotter.Remove(ctx, key)
}

func (s *snapshotter) take(key string) *turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.turns[key]
	delete(s.turns, key)
	return t
}

// View implements [snapshots.Snapshotter].
func (s *snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	m, err := s.Snapshotter.View(ctx, key, parent, opts...)
	return resolve(m), err
}

// Mounts implements [snapshots.Snapshotter].
func (s *snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	m, err := s.Snapshotter.Mounts(ctx, key)
	return resolve(m), err
}

// Cleanup implements [snapshots.Cleaner].
func (s *snapshotter) Cleanup(ctx context.Context) error {
	if c, ok := s.Snapshotter.(snapshots.Cleaner); ok {
		return c.Cleanup(ctx)
	}
	return nil
}

// ownFolder is the snapshot's "fs" in the mounts of a snapshot just prepared.
func ownFolder(mounts []mount.Mount) (string, error) {
	if len(mounts) == 1 && mounts[0].Type == "bind" {
		return mounts[0].Source, nil
	}
	if len(mounts) == 1 {
		for _, o := range mounts[0].Options {
			if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("mounts of the overlay snapshotter have an unknown form: %v", mounts)
}

// resolve names stored layers by where they are. The kernel would follow the links; but
// mounts with mapped users first mount the folder that all lower ones have in common.
func resolve(mounts []mount.Mount) []mount.Mount {
	for i := range mounts {
		m := &mounts[i]
		if m.Type == "bind" {
			m.Source = target(m.Source)
		}
		for j, o := range m.Options {
			lower, ok := strings.CutPrefix(o, "lowerdir=")
			if !ok {
				continue
			}
			dirs := strings.Split(lower, ":")
			for k := range dirs {
				dirs[k] = target(dirs[k])
			}
			m.Options[j] = "lowerdir=" + strings.Join(dirs, ":")
		}
	}
	return mounts
}

func target(dir string) string {
	if st, err := os.Lstat(dir); err != nil || st.Mode()&fs.ModeSymlink == 0 {
		return dir
	}
	if to, err := os.Readlink(dir); err == nil {
		return to
	}
	return dir
}

func readOnly(mounts []mount.Mount) []mount.Mount {
	for i := range mounts {
		var options []string
		for _, o := range mounts[i].Options {
			if o != "rw" {
				options = append(options, o)
			}
		}
		mounts[i].Options = append(options, "ro")
	}
	return mounts
}
