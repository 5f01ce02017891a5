package unread

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
)

const (
	compressed = ".gz"
	// slack of where a line ends: its line break, which is not part of it, may be none or two bytes.
	slack = 2
	// patience is for how many looks a file that is gone may still be read: the reader has it open.
	patience = 10
)

// loss of one file.
type loss struct {
	bytes int64
	// withPod: the kubelet deleted the whole pod's, and not the oldest of a container's.
	withPod bool
}

// ledger is what is known of the files that patterns match.
type ledger struct {
	include, exclude []string

	mu     sync.Mutex
	looked bool
	looks  int
	byNode map[uint64]*file // by inode
	gone   []*file
}

// file is one that was written, under whatever name. Compression gives it another inode.
type file struct {
	path       string // without the ending of compression
	group      string
	size       int64 // before compression
	readTo     int64
	old        bool // was there when we came
	readFrom   bool
	lastLooked int
}

// group is what a file and those that were set aside before it have in common: POD/CONTAINER/RESTARTS.
func group(path string) string {
	if i := strings.Index(filepath.Base(path), ".log"); i >= 0 {
		return filepath.Join(filepath.Dir(path), filepath.Base(path)[:i])
	}
	return path
}

// read notes that a line of so many bytes was read.
func (l *ledger) read(path string, offset, length int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.find(path, offset)
	if f == nil || f.readFrom && offset+length <= f.readTo && !strings.HasSuffix(path, compressed) {
		l.notes() // a new one, perhaps under the name of one that was set aside since
		if f = l.find(path, offset); f == nil {
			return // gone already
		}
	}
	f.readFrom = true
	if strings.HasSuffix(path, compressed) {
		f.readTo += length // its offsets are of another kind
		return
	}
	f.readTo = max(f.readTo, offset+length)
}

// find is the file that a line is of. Lines of one follow each other, and a name may be an older
// one of it: so where the last line ended counts for more than the name.
func (l *ledger) find(path string, offset int64) *file {
	own, plain := group(path), strings.TrimSuffix(path, compressed)
	var named, next *file
	see := func(f *file) {
		switch {
		case f.path == plain:
			named = f
		case f.group == own && plain == path && offset > 0 && f.readFrom && abs(f.readTo-offset) <= slack:
			next = f
		}
	}
	for _, f := range l.gone {
		see(f)
	}
	for _, f := range l.byNode {
		see(f)
	}
	return cmp.Or(next, named)
}

func abs(n int64) int64 { return max(n, -n) }

// look looks at the folder and returns what was lost of each file that is gone for a while.
func (l *ledger) look() (lost []loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks++
	l.notes()
	for inode, f := range l.byNode {
		if f.lastLooked == l.looks {
			continue
		}
		delete(l.byNode, inode)
		l.gone = append(l.gone, f)
	}
	l.gone = slices.DeleteFunc(l.gone, func(f *file) bool {
		if l.looks-f.lastLooked < patience {
			return false
		}
		if unread := f.size - f.readTo; unread > slack && (f.readFrom || !f.old) {
			_, err := os.Stat(filepath.Dir(f.path))
			lost = append(lost, loss{unread, err != nil})
		}
		return true
	})
	l.looked = true
	return lost
}

// notes what is there.
func (l *ledger) notes() {
	if l.byNode == nil {
		l.byNode = map[uint64]*file{}
	}
	for _, path := range l.matches() {
		info, err := os.Lstat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			l.note(path, stat.Ino, info.Size())
		}
	}
}

// note a file that is there.
func (l *ledger) note(path string, inode uint64, size int64) {
	plain, isCompressed := strings.CutSuffix(path, compressed)
	f := l.byNode[inode]
	if f != nil && (f.group != group(path) || !isCompressed && size < f.size) { // the number of one that is gone
		delete(l.byNode, inode)
		l.gone = append(l.gone, f)
		f = nil
	}
	if f == nil && isCompressed {
		for was, other := range l.byNode {
			if other.path == plain && other.lastLooked != l.looks {
				delete(l.byNode, was)
				f = other
			}
		}
	}
	if f == nil {
		if isCompressed { // never seen as it was: how long it is is not known
			return
		}
		f = &file{old: !l.looked, group: group(path)}
	}
	l.byNode[inode] = f
	f.path, f.lastLooked = plain, l.looks
	if !isCompressed {
		f.size = max(f.size, size)
	}
}

func (l *ledger) matches() (found []string) {
	for _, pattern := range l.include {
		paths, _ := filepath.Glob(pattern) // the pattern is a good one, see Build
		for _, path := range paths {
			out := slices.ContainsFunc(l.exclude, func(e string) bool {
				ok, _ := filepath.Match(e, path)
				return ok
			})
			if !out && !slices.Contains(found, path) {
				found = append(found, path)
			}
		}
	}
	// What is not compressed first: a file may be there as both for a moment.
	slices.SortStableFunc(found, func(a, b string) int {
		return strings.Count(a[max(0, len(a)-len(compressed)):], compressed) - strings.Count(b[max(0, len(b)-len(compressed)):], compressed)
	})
	return found
}
