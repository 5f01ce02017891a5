package clangcache

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Cache is a folder of objects by key, which any number of processes use at a time:
//
//	KEY       an object, with its digest in front
//	KEY.lock  held while it is made
//	log       what was asked for, for people; the newest part of it
//
// It is safe to delete at any time.
type cache struct{ dir string }

// maxCache bounds the objects of a cache, in bytes: about 400 of them.
const maxCache = 256 << 20

// lockTime is how long an object that somebody else makes is waited for. Clang takes a second or
// two; on a machine that is that busy another one makes no difference.
const lockTime = time.Minute

// header begins an entry.
const header = "orrery-object-1"

// get returns an object that is whole; fs.ErrNotExist when there is none.
func (c cache) get(key string) ([]byte, error) {
	data, err := os.ReadFile(c.path(key))
	if err != nil {
		return nil, err
	}
	head, object, ok := bytes.Cut(data, []byte("\n"))
	sum := sha256.Sum256(object)
	if !ok || string(head) != header+" "+hex.EncodeToString(sum[:])+" "+strconv.Itoa(len(object)) {
		os.Remove(c.path(key))
		return nil, fmt.Errorf("%w: entry %.12s was damaged", fs.ErrNotExist, key)
	}
	now := time.Now()
	_ = os.Chtimes(c.path(key), now, now) // what was used last stays
	return object, nil
}

// put stores an object. It appears as a whole or not at all.
func (c cache) put(key string, object []byte) error {
	c.evict(int64(len(object)))
	tmp, err := os.CreateTemp(c.dir, ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	sum := sha256.Sum256(object)
	_, err = fmt.Fprintf(tmp, "%s %s %d\n", header, hex.EncodeToString(sum[:]), len(object))
	if err == nil {
		_, err = tmp.Write(object)
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), c.path(key))
}

// lock has others with the same key wait. The lock goes away with the process. Nobody removes
// the file while it may be held: a lock on a removed file would keep nobody off.
func (c cache) lock(key string) (unlock func(), err error) {
	f, err := os.OpenFile(c.path(key)+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	held, gone := make(chan error), make(chan struct{})
	go func() { // flock has no time limit of its own
		err := flock(f)
		select {
		case held <- err:
		case <-gone:
			f.Close()
		}
	}()
	select {
	case err := <-held:
		if err != nil {
			f.Close()
			return nil, err
		}
		return func() { f.Close() }, nil
	case <-time.After(lockTime):
		close(gone)
		return nil, fmt.Errorf("another process has made %.12s for %v", key, lockTime)
	}
}

func flock(f *os.File) error {
	for {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func (c cache) path(key string) string { return filepath.Join(c.dir, key) }

// evict makes room for an object of the given size by removing those that were used longest
// ago, and what killed processes began.
func (c cache) evict(size int64) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	var files []fs.FileInfo
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		old := time.Since(info.ModTime())
		switch {
		case strings.HasPrefix(e.Name(), ".new-"):
			if old > time.Hour {
				os.Remove(c.path(e.Name()))
			}
		case strings.HasSuffix(e.Name(), ".lock"):
			if old > 24*time.Hour {
				c.removeLock(e.Name())
			}
		case e.Name() != logName:
			files = append(files, info)
			total += info.Size()
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, f := range files {
		if total+size <= maxCache {
			return
		}
		os.Remove(c.path(f.Name()))
		total -= f.Size()
	}
}

// removeLock removes a lock's file that nobody holds. Who opened it just before and takes the
// lock now makes an object that another one makes as well, which is all that can happen.
func (c cache) removeLock(name string) {
	f, err := os.OpenFile(c.path(name), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		os.Remove(c.path(name))
	}
}

const (
	logName = "log"
	maxLog  = 1 << 20
)

// note adds a line to the log.
func (c cache) note(format string, a ...any) {
	path := c.path(logName)
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		os.Remove(path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	host, _ := os.Hostname()
	fmt.Fprintf(f, "%s %s %s\n", time.Now().UTC().Format(time.RFC3339Nano), host, fmt.Sprintf(format, a...))
}
