package native

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const layerVersion = 1

// layerRecord is layer.json: what a shared layer must be. Tree and Stamp are empty until
// the layer was measured, which is also when all of it is on the disk.
type layerRecord struct {
	Version int    `json:"version"`
	Chain   string `json:"chain"`
	// Boot of the machine in which the layer came. Unless the machine went down, an
	// unmeasured layer is as whole as any file.
	Boot string `json:"boot"`
	// Tree is a hash over every name, attribute and byte.
	Tree string `json:"tree,omitempty"`
	// Stamp is a hash over what stat(2) says, times of change included. As long as it is the
	// same, nothing was written, and Tree need not be computed.
	Stamp string `json:"stamp,omitempty"`
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// note writes layer.json into dir, which is relative to the state directory.
func (s *layerStore) note(dir string, r layerRecord) error {
	_, err := writeJSON(s.paths.join(dir, "layer.json"), r)
	return err
}

// measure puts a layer on the disk and writes down what it is.
func (s *layerStore) measure(chain string) error {
	s.record.Lock()
	defer s.record.Unlock()
	dir := s.paths.layer(chain)
	tree, stamp, err := layerSums(filepath.Join(dir, "fs"), true)
	if err != nil {
		return err
	}
	return s.note(filepath.Join("layers", filepath.Base(dir)), layerRecord{layerVersion, chain, bootID(), tree, stamp})
}

var errUnmeasured = errors.New("the machine went down before it was on the disk")

// trust is nil when the layer is what it was when it came. It reads content only when
// something hints at a change, and puts the record right when there was none.
func (s *layerStore) trust(chain string) error {
	r, stamp, err := s.paths.checkLayer(chain)
	switch {
	case err != nil:
		return err
	case r.Tree == "":
		return s.measure(chain)
	case stamp == r.Stamp:
		return nil
	}
	r.Stamp = stamp
	return s.note(filepath.Join("layers", filepath.Base(s.paths.layer(chain))), r)
}

// checkLayer looks at a stored layer and changes nothing. The stamp is today's; it may
// differ from the record's although the content is right.
func (p paths) checkLayer(chain string) (r layerRecord, stamp string, err error) {
	dir := p.layer(chain)
	b, err := os.ReadFile(filepath.Join(dir, "layer.json"))
	if err != nil {
		return r, "", err
	}
	if err := json.Unmarshal(b, &r); err != nil || r.Chain != chain || r.Version != layerVersion {
		return r, "", errors.Join(fmt.Errorf("layer.json is not that of %s", chain), err)
	}
	if r.Tree == "" {
		if r.Boot == "" || r.Boot != bootID() {
			return r, "", errUnmeasured
		}
		return r, "", nil
	}
	_, stamp, err = layerSums(filepath.Join(dir, "fs"), false)
	if err != nil || stamp == r.Stamp {
		return r, stamp, err
	}
	tree, stamp, err := layerSums(filepath.Join(dir, "fs"), true)
	if err == nil && tree != r.Tree {
		err = errors.New("its content is not what it was")
	}
	return r, stamp, err
}

// layerSums hashes a layer, see [layerRecord]; tree is empty unless content is asked for,
// and content is synced to the disk on the way.
func layerSums(dir string, content bool) (tree, stamp string, err error) {
	t, s := sha256.New(), sha256.New()
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: p, Err: err}
		}
		rel, _ := filepath.Rel(dir, p)
		line := fmt.Sprintf("%q %o %d %d %d", rel, st.Mode, st.Uid, st.Gid, st.Rdev)
		if e.Type().IsRegular() {
			line += fmt.Sprintf(" %d", st.Size)
		}
		if rel != "." { // of the root, adoption changes it
			line += fmt.Sprintf(" %d.%d", st.Mtim.Sec, st.Mtim.Nsec)
		}
		fmt.Fprintf(s, "%s %d.%d %d\n", line, st.Ctim.Sec, st.Ctim.Nsec, st.Ino)
		if !content {
			return nil
		}
		fmt.Fprintln(t, line)
		return hashEntry(t, p, e.Type())
	})
	if err != nil {
		return "", "", err
	}
	if content {
		tree = hex.EncodeToString(t.Sum(nil))
	}
	return tree, hex.EncodeToString(s.Sum(nil)), nil
}

// hashEntry adds what is behind a name: content, target, extended attributes.
func hashEntry(t hash.Hash, p string, kind fs.FileMode) error {
	if kind == fs.ModeSymlink {
		to, err := os.Readlink(p)
		fmt.Fprintf(t, "link %q\n", to)
		return err
	}
	attributes, err := xattrs(p)
	if err != nil {
		return err
	}
	for _, a := range attributes {
		fmt.Fprintln(t, a)
	}
	if !kind.IsRegular() && !kind.IsDir() {
		return nil
	}
	// The node that unpacked it may still hold the folder open, and change it at this moment.
	f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if kind.IsRegular() {
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		fmt.Fprintf(t, "sha256 %x\n", h.Sum(nil))
	}
	return f.Sync()
}

// xattrs of a file that is no link: overlayfs marks folders that hide those below with one.
func xattrs(p string) ([]string, error) {
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(p, buf)
	if errors.Is(err, syscall.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "llistxattr", Path: p, Err: err}
	}
	var all []string
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			return nil, &fs.PathError{Op: "lgetxattr " + name, Path: p, Err: err}
		}
		all = append(all, fmt.Sprintf("xattr %q %x", name, value[:n]))
	}
	slices.Sort(all)
	return all, nil
}
