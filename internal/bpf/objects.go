package bpf

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/check"
)

// Object is a program, map or link in the kernel. Identifiers are handed out in turn and
// come back only after all others of 31 bits.
type Object struct {
	Kind string // "program", "map" or "link"
	ID   uint32
}

// commands of a kind, see bpf(2).
var commands = map[string]struct{ next, open int }{
	"program": {unix.BPF_PROG_GET_NEXT_ID, unix.BPF_PROG_GET_FD_BY_ID},
	"map":     {unix.BPF_MAP_GET_NEXT_ID, unix.BPF_MAP_GET_FD_BY_ID},
	"link":    {unix.BPF_LINK_GET_NEXT_ID, unix.BPF_LINK_GET_FD_BY_ID},
}

// Gone is how long the kernel may take to free what nobody holds any more: programs end
// with the network namespaces that they are attached in, which it takes apart one by one.
const Gone = time.Minute

// call is the system call: attr in the layout of union bpf_attr.
func call(command int, attr []byte) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(unsafe.Pointer(&attr[0])), uintptr(len(attr)))
	runtime.KeepAlive(attr)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// open gives a descriptor of the object; unix.ENOENT when there is none.
func (o Object) open() (int, error) {
	attr := make([]byte, 12)
	binary.NativeEndian.PutUint32(attr, o.ID)
	return call(commands[o.Kind].open, attr)
}

// Exists is false also where objects cannot be listed: what is left then is nobody's to find.
//
// It does not open the object. Letting go of the last descriptor of an array of programs has
// the kernel empty it in the background, under a reference for that; asked to again before it
// came to do so, it takes a second reference and gives back one, and the array stays for ever
// (prog_array_map_clear in kernel/bpf/arraymap.c). On a busy machine that is easily had.
func (o Object) Exists() bool {
	id, err := o.next(o.ID - 1)
	return err == nil && id == o.ID
}

// next identifier of an object of this kind; unix.ENOENT when there is none.
func (o Object) next(after uint32) (uint32, error) {
	attr := make([]byte, 12)
	binary.NativeEndian.PutUint32(attr, after)
	_, err := call(commands[o.Kind].next, attr)
	return binary.NativeEndian.Uint32(attr[4:]), err
}

// String names it as a person would look for it.
func (o Object) String() string {
	name := ""
	if fd, err := o.open(); err == nil {
		defer unix.Close(fd)
		at := map[string]int{"program": 64, "map": 24}[o.Kind] // of char name[16]
		if info, err := describe(fd, make([]byte, 80)); err == nil && at != 0 {
			name = " " + string(bytes.TrimRight(info[at:at+16], "\x00"))
		}
	}
	return fmt.Sprintf("BPF %s%s (id %d)", o.Kind, name, o.ID)
}

// describe fills info with what the kernel tells of a descriptor: struct bpf_prog_info,
// bpf_map_info or bpf_link_info.
func describe(fd int, info []byte) ([]byte, error) {
	var pins runtime.Pinner // the kernel is given its address as a number
	defer pins.Unpin()
	pins.Pin(&info[0])
	attr := make([]byte, 16)
	binary.NativeEndian.PutUint32(attr, uint32(fd))
	binary.NativeEndian.PutUint32(attr[4:], uint32(len(info)))
	binary.NativeEndian.PutUint64(attr[8:], uint64(uintptr(unsafe.Pointer(&info[0]))))
	_, err := call(unix.BPF_OBJ_GET_INFO_BY_FD, attr)
	return info, err
}

// mapsOf are the identifiers of the maps that a program uses.
func mapsOf(fd int) []uint32 {
	info, err := describe(fd, make([]byte, 80))
	if err != nil {
		return nil
	}
	n := binary.NativeEndian.Uint32(info[52:]) // nr_map_ids
	if n == 0 {
		return nil
	}
	ids := make([]uint32, n)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&ids[0])
	info = make([]byte, 80)
	binary.NativeEndian.PutUint32(info[52:], n)
	binary.NativeEndian.PutUint64(info[56:], uint64(uintptr(unsafe.Pointer(&ids[0])))) // map_ids
	_, err = describe(fd, info)
	if err != nil {
		return nil
	}
	return ids
}

// List is all objects of a kind in the kernel, by ascending identifiers; empty where they may
// not be listed.
func List(kind string) []Object {
	var found []Object
	o := Object{Kind: kind}
	for {
		id, err := o.next(o.ID)
		if err != nil {
			return found
		}
		o.ID = id
		found = append(found, o)
	}
}

// ErrProgramArray is told of arrays of programs: the kernel loses a reference to one when its last
// user goes twice in a row (prog_array_map_clear), which happens as pods end on a busy machine. The
// empty array stays until a reboot, held by nobody, so it is no leftover of anybody's.
var ErrProgramArray = errors.New("an array of programs, which the kernel may keep")

// Pinned is what stands in a file of a BPF file system; [ErrProgramArray] is the error of such an
// array.
func Pinned(path string) (Object, error) {
	name := append([]byte(path), 0)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&name[0])
	attr := make([]byte, 16)
	binary.NativeEndian.PutUint64(attr, uint64(uintptr(unsafe.Pointer(&name[0]))))
	fd, err := call(unix.BPF_OBJ_GET, attr)
	if err != nil {
		return Object{}, err
	}
	defer unix.Close(fd)
	what, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return Object{}, err
	}
	var kind string
	switch {
	case strings.Contains(what, "bpf-prog"):
		kind = "program"
	case strings.Contains(what, "bpf-map"):
		kind = "map"
	case strings.Contains(what, "bpf_link"), strings.Contains(what, "bpf-link"):
		kind = "link"
	default:
		return Object{}, fmt.Errorf("%s is neither program, map nor link: %s", path, what)
	}
	info, err := describe(fd, make([]byte, 80))
	if err != nil {
		return Object{}, err
	}
	if kind == "map" && isProgramArray(info) {
		return Object{}, ErrProgramArray
	}
	// All three structs begin with type and id.
	return Object{kind, binary.NativeEndian.Uint32(info[4:])}, nil
}

func isProgramArray(info []byte) bool {
	return binary.NativeEndian.Uint32(info) == unix.BPF_MAP_TYPE_PROG_ARRAY
}

// IsProgramArray opens the object, so it is to be asked only of what nobody is letting go of
// any more, see [Object.Exists].
func (o Object) IsProgramArray() bool {
	if o.Kind != "map" {
		return false
	}
	fd, err := o.open()
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	info, err := describe(fd, make([]byte, 80))
	return err == nil && isProgramArray(info)
}

// folder is where processes with a BPF file system of their own have it.
const folder = "/sys/fs/bpf"

// PinnedBy are the objects in the BPF file systems of processes, each in its own mount
// namespace. Arrays of programs are left out, see [ErrProgramArray].
func PinnedBy(pids []int) []Object {
	var found []Object
	seen := map[string]bool{}
	for _, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid)
		ns, err := os.Readlink(dir + "/ns/mnt")
		if err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		root := dir + "/root" + folder
		var st unix.Statfs_t
		if unix.Statfs(root, &st) != nil || st.Type != unix.BPF_FS_MAGIC {
			continue
		}
		_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return nil // what goes away meanwhile needs no audit
			}
			if o, err := Pinned(path); err == nil {
				found = append(found, o)
			}
			return nil
		})
	}
	slices.SortFunc(found, Object.compare)
	return slices.Compact(found)
}

func (o Object) compare(p Object) int {
	return cmp.Or(strings.Compare(o.Kind, p.Kind), cmp.Compare(o.ID, p.ID))
}

// Held are [PinnedBy] and the programs that use maps among them. It is empty where the
// network needs none.
func Held(pids []int) []Object {
	found := PinnedBy(pids)
	if len(found) == 0 {
		return nil
	}
	maps := map[Object]bool{}
	for _, o := range found {
		maps[o] = true
	}
	for _, o := range List("program") {
		fd, err := o.open()
		if err != nil {
			continue
		}
		if slices.ContainsFunc(mapsOf(fd), func(id uint32) bool { return maps[Object{"map", id}] }) {
			found = append(found, o)
		}
		unix.Close(fd)
	}
	slices.SortFunc(found, Object.compare)
	return slices.Compact(found)
}

// Left are those that are still there once the kernel had its time, which is limit.
func Left(ctx context.Context, objects []Object, limit time.Duration) []string {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var left []string
	_ = check.Until(ctx, check.Pause{First: 20 * time.Millisecond}, func() error {
		left = nil
		for _, o := range objects {
			if o.Exists() {
				left = append(left, o.String())
			}
		}
		if len(left) > 0 {
			return errors.New("some are there")
		}
		return nil
	})
	return left
}
