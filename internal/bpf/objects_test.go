package bpf

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newMap makes a BPF map with a name of its own.
func newMap(t *testing.T, name string) int {
	t.Helper()
	attr := make([]byte, 48) // of BPF_MAP_CREATE, up to map_name
	for i, v := range []uint32{unix.BPF_MAP_TYPE_ARRAY, 4, 4, 1} {
		binary.NativeEndian.PutUint32(attr[4*i:], v)
	}
	copy(attr[28:43], name)
	fd, err := call(unix.BPF_MAP_CREATE, attr)
	if err != nil {
		t.Skip("bpf() is not permitted here: ", err)
	}
	return fd
}

func pin(t *testing.T, fd int, path string) {
	t.Helper()
	name := append([]byte(path), 0)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&name[0])
	attr := make([]byte, 16)
	binary.NativeEndian.PutUint64(attr, uint64(uintptr(unsafe.Pointer(&name[0]))))
	binary.NativeEndian.PutUint32(attr[8:], uint32(fd))
	if _, err := call(unix.BPF_OBJ_PIN, attr); err != nil {
		t.Fatal("pin: ", err)
	}
}

// TestBPFLeftovers: what stands in a BPF file system is found there, named, and missed
// once it is gone; what outlives the file system is a leftover.
func TestBPFLeftovers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	fd := newMap(t, "orrery_test")
	defer func() { unix.Close(fd) }()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Skip("cannot mount a BPF file system: ", err)
	}
	mounted := true
	defer func() {
		if mounted {
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	}()
	path := filepath.Join(dir, "a_map")
	pin(t, fd, path)
	o, err := Pinned(path)
	if err != nil {
		t.Fatal(err)
	}
	if o.IsProgramArray() {
		t.Error("it is no array of programs")
	}
	if o.Kind != "map" || !slices.Contains(List("map"), o) || !o.Exists() {
		t.Errorf("pinned %+v, which is none of the kernel's maps", o)
	}
	if !strings.Contains(o.String(), "BPF map orrery_test (id ") {
		t.Errorf("it is called %q", o)
	}
	if _, err := Pinned(filepath.Join(dir, "none")); err == nil {
		t.Error("read what is not there")
	}
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	mounted = false
	const limit = 200 * time.Millisecond
	start := time.Now()
	if left := Left(t.Context(), []Object{o}, limit); len(left) != 1 || !strings.Contains(left[0], "orrery_test") {
		t.Errorf("the map is held by this process, and left is %v", left)
	}
	if took := time.Since(start); took < limit {
		t.Errorf("gave up after %s", took)
	}
	unix.Close(fd)
	fd = -1
	// The kernel frees it in the background.
	if left := Left(t.Context(), []Object{o}, Gone); len(left) != 0 {
		t.Errorf("the map was let go, and left is %v", left)
	}
	if o.Exists() || strings.Contains(o.String(), "orrery_test") {
		t.Errorf("%s exists", o)
	}
}

// TestBPFOfNobody: processes without a BPF file system of their own have no objects.
func TestBPFOfNobody(t *testing.T) {
	if got := Held([]int{1 << 30}); got != nil {
		t.Errorf("a process that does not exist has %v", got)
	}
}
