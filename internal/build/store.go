package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/orrery-dev/orrery/internal/disk"
	"github.com/orrery-dev/orrery/internal/filelock"
)

// store keeps binaries by key:
//
//	KEY/NAME            the binary, read-only
//	KEY/manifest.json   what it should be
//	.lock/KEY           held while KEY is made
//	.tmp/KEY.RANDOM     what is being made; renamed to KEY when whole
type store struct{ dir string }

const cacheFormat = 1

// manifest describes one entry. Only Name, SHA256 and Size decide; the rest is for people.
type manifest struct {
	Format     int       `json:"format"`
	Key        string    `json:"key"`
	Name       string    `json:"name"`
	Version    string    `json:"version,omitempty"`
	Source     string    `json:"source"` // MODULE@VERSION or our own module
	Package    string    `json:"package"`
	Go         string    `json:"go"`
	SHA256     string    `json:"sha256"`
	Size       int64     `json:"size"`
	ModTime    time.Time `json:"modTime"` // of the file: a changed one is hashed again
	CPUSeconds float64   `json:"cpuSeconds"`
	MaxRSSMiB  int64     `json:"maxRSSMiB"`
}

// errCorrupt is wrapped by errors about an entry that exists and is damaged.
var errCorrupt = errors.New("damaged cache entry")

func (s store) path(key, name string) string { return filepath.Join(s.dir, key, name) }
func (s store) manifest(key string) string   { return filepath.Join(s.dir, key, "manifest.json") }
func (s store) lockPath(key string) string   { return filepath.Join(s.dir, ".lock", key) }
func (s store) temp() string                 { return filepath.Join(s.dir, ".tmp") }

// lookup returns the entry if it is there and looks whole: right size, and not written
// to since. A file that only got a new time, by a copy of the cache, is hashed.
// Errors are fs.ErrNotExist or errCorrupt.
func (s store) lookup(key string) (manifest, error) {
	m, info, err := s.read(key)
	if err != nil {
		return manifest{}, err
	}
	if !info.ModTime().Equal(m.ModTime) {
		return s.verify(key)
	}
	return m, nil
}

// verify is lookup that always hashes.
func (s store) verify(key string) (manifest, error) {
	m, info, err := s.read(key)
	if err != nil {
		return manifest{}, err
	}
	sum, err := disk.SHA256(s.path(key, m.Name))
	if err != nil {
		return manifest{}, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	if sum != m.SHA256 {
		return manifest{}, fmt.Errorf("%w: its SHA-256 is %s and should be %s", errCorrupt, sum, m.SHA256)
	}
	if !info.ModTime().Equal(m.ModTime) {
		// Content is right: put the time right as well, so that it is not hashed for ever.
		_ = os.Chtimes(s.path(key, m.Name), m.ModTime, m.ModTime)
	}
	return m, nil
}

func (s store) read(key string) (manifest, fs.FileInfo, error) {
	var m manifest
	data, err := os.ReadFile(s.manifest(key))
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Lstat(filepath.Join(s.dir, key)); statErr == nil {
			return m, nil, fmt.Errorf("%w: it has no manifest", errCorrupt)
		}
		return m, nil, fmt.Errorf("binary %.12s is not cached: %w", key, fs.ErrNotExist)
	}
	if err != nil {
		return m, nil, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, nil, fmt.Errorf("%w: manifest: %w", errCorrupt, err)
	}
	if m.Format != cacheFormat || m.Key != key || m.Name == "" || m.Name != filepath.Base(m.Name) {
		return m, nil, fmt.Errorf("%w: the manifest is of another entry or format", errCorrupt)
	}
	info, err := os.Lstat(s.path(key, m.Name))
	if err != nil {
		return m, nil, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	if !info.Mode().IsRegular() || info.Size() != m.Size {
		return m, nil, fmt.Errorf("%w: it has %d bytes and should have %d", errCorrupt, info.Size(), m.Size)
	}
	return m, info, nil
}

// lock waits until nobody else makes key.
func (s store) lock(ctx context.Context, key string, waiting func()) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(s.lockPath(key)), 0o755); err != nil {
		return nil, err
	}
	f, err := filelock.Wait(ctx, s.lockPath(key), filelock.Exclusive, waiting)
	if err != nil {
		return nil, err
	}
	return func() {
		os.Remove(s.lockPath(key)) // while held: see filelock.Try
		f.Close()
	}, nil
}

// begin makes an empty folder to build in: out/ becomes the entry, work/ is for the
// compiler. The caller holds the key's lock, so what others began is a dead process's. It
// may hold files still: compilers outlive a killed process by moments.
func (s store) begin(key string) (dir string, err error) {
	if err := os.MkdirAll(s.temp(), 0o755); err != nil {
		return "", err
	}
	dead, _ := filepath.Glob(filepath.Join(s.temp(), key+".*"))
	for _, d := range dead {
		os.RemoveAll(d)
	}
	if dir, err = os.MkdirTemp(s.temp(), key+"."); err != nil {
		return "", err
	}
	for _, d := range []string{"out", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func (s store) abandon(dir string) { os.RemoveAll(dir) }

// commit turns dir/out/NAME into the entry of m.Key: all of it is on the disk before
// anybody can see any of it.
func (s store) commit(dir string, m manifest) error {
	out := filepath.Join(dir, "out")
	path := filepath.Join(out, m.Name)
	// Read-only, since the same inode is linked into nodes.
	if err := os.Chmod(path, 0o555); err != nil {
		return err
	}
	sum, err := disk.SHA256(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	m.SHA256, m.Size, m.ModTime = sum, info.Size(), info.ModTime().UTC()
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "manifest.json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	for _, p := range []string{path, filepath.Join(out, "manifest.json"), out} {
		if err := disk.Sync(p); err != nil {
			return err
		}
	}
	if err := os.Rename(out, filepath.Join(s.dir, m.Key)); err != nil {
		return err
	}
	s.retire(m.Name)
	return disk.Sync(s.dir)
}

// keep is how many builds of one name stay: enough to change branches back and forth.
const keep = 3

// retire removes all but the newest builds of a program. Nodes that run an old one have
// a link to it of their own. What cannot be removed now can be the next time.
func (s store) retire(name string) {
	type build struct {
		key  string
		made time.Time
	}
	var builds []build
	manifests, _ := filepath.Glob(s.manifest("*"))
	for _, path := range manifests {
		key := filepath.Base(filepath.Dir(path))
		info, err := os.Stat(path)
		if m, _, readErr := s.read(key); err == nil && readErr == nil && m.Name == name {
			builds = append(builds, build{key, info.ModTime()})
		}
	}
	slices.SortFunc(builds, func(a, b build) int { return b.made.Compare(a.made) })
	for _, b := range builds[min(keep, len(builds)):] {
		lock, err := filelock.Try(s.lockPath(b.key), filelock.Exclusive)
		if err != nil {
			continue
		}
		_ = s.drop(b.key)
		os.Remove(s.lockPath(b.key))
		lock.Close()
	}
}

// drop removes an entry. Renamed first, so that it never looks half there.
func (s store) drop(key string) error {
	dead, err := s.begin(key)
	if err != nil {
		return err
	}
	defer s.abandon(dead)
	err = os.Rename(filepath.Join(s.dir, key), filepath.Join(dead, "entry"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop damaged cache entry: %w", err)
	}
	return nil
}

// sweep removes what killed builds left behind. Those of live processes are locked.
func (s store) sweep(log *slog.Logger) {
	entries, err := os.ReadDir(s.temp())
	if err != nil {
		return // nothing was ever built
	}
	for _, e := range entries {
		key, _, _ := strings.Cut(e.Name(), ".")
		lock, err := filelock.Try(s.lockPath(key), filelock.Exclusive)
		if err != nil {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.temp(), e.Name())); err != nil {
			log.Warn("remove an interrupted build", "path", e.Name(), "error", err)
		}
		os.Remove(s.lockPath(key))
		lock.Close()
	}
}

// Programs maps the SHA-256 of every binary of a cache to its path, without hashing any.
func Programs(cacheDir string) map[string]string {
	s := store{dir: filepath.Join(cacheDir, "bin")}
	found := map[string]string{}
	manifests, _ := filepath.Glob(s.manifest("*"))
	for _, path := range manifests {
		key := filepath.Base(filepath.Dir(path))
		if m, _, err := s.read(key); err == nil {
			found[m.SHA256] = s.path(key, m.Name)
		}
	}
	return found
}
