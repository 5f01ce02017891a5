package e2e

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bpfNext are the commands of bpf(2) that list what the kernel has. Nothing is opened by its
// identifier: see internal/driver/native/bpfobjects.go for what that does to a busy kernel.
var bpfNext = map[string]uintptr{
	"program": unix.BPF_PROG_GET_NEXT_ID, "map": unix.BPF_MAP_GET_NEXT_ID, "link": unix.BPF_LINK_GET_NEXT_ID,
}

// bpfIDs of all objects of a kind, ascending; empty where they may not be listed.
func bpfIDs(kind string) []uint32 {
	var found []uint32
	var attr struct{ start, next, flags uint32 }
	for {
		_, _, errno := unix.Syscall(unix.SYS_BPF, bpfNext[kind], uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		if errno != 0 {
			return found
		}
		found = append(found, attr.next)
		attr.start = attr.next
	}
}

// bpfObjects are what the machine has, and what is pinned in its own file system.
type bpfObjects struct {
	ids  map[string][]uint32 // by kind
	pins []string
}

func lookAtBPF() bpfObjects {
	o := bpfObjects{ids: map[string][]uint32{}}
	for kind := range bpfNext {
		o.ids[kind] = bpfIDs(kind)
	}
	_ = filepath.WalkDir("/sys/fs/bpf", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			o.pins = append(o.pins, path)
		}
		return nil
	})
	return o
}

// since are the objects of a kind that were not there before.
func (o bpfObjects) since(before bpfObjects, kind string) []uint32 {
	return slices.DeleteFunc(slices.Clone(o.ids[kind]), func(id uint32) bool { return slices.Contains(before.ids[kind], id) })
}

// isProgramArray opens a map, so it is asked of those only that nobody is letting go of any more.
func isProgramArray(id uint32) bool {
	attr := [3]uint32{id}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_GET_FD_BY_ID, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return false
	}
	defer unix.Close(int(fd))
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(fd)))
	return err == nil && strings.Contains(string(info), fmt.Sprintf("map_type:\t%d\n", unix.BPF_MAP_TYPE_PROG_ARRAY))
}

// bpfUnchanged compares the BPF objects of the whole machine with those before the first
// test, when no environment runs and nobody else is here. The kernel frees them at leisure.
//
// Arrays of programs are counted and no failure: the kernel loses a reference to one when its
// last user goes twice in a row (prog_array_map_clear), which happens to Cilium's agents as
// pods end on a busy machine. They are empty, and nobody but the kernel holds them.
func bpfUnchanged(t *testing.T) {
	t.Helper()
	if crowd := append(others(), neighboursBefore...); len(crowd) > 0 {
		t.Logf("BPF objects of the machine are not counted, since %v are on it too", crowd)
		return
	}
	eventually(t, "the machine has no BPF objects that were not there before", 90*time.Second, func(context.Context) error {
		now := lookAtBPF()
		programs, links, maps := now.since(before.bpf, "program"), now.since(before.bpf, "link"), now.since(before.bpf, "map")
		if len(programs)+len(links) > 0 {
			return fmt.Errorf("programs %v, links %v, maps %v", programs, links, maps)
		}
		left := slices.DeleteFunc(maps, isProgramArray)
		if len(left) > 0 {
			return fmt.Errorf("maps %v", left)
		}
		return nil
	})
	t.Logf("of the machine's BPF objects none are new but %d empty arrays of programs", len(lookAtBPF().since(before.bpf, "map")))
}

// held are the BPF objects of an environment: what its nodes pinned, each in its own file
// system. Attachments to control groups and to links are among them, as BPF links.
type held struct{ ids map[string]bool } // "map 12"

func (e *environment) bpfHeld(t *testing.T) held {
	t.Helper()
	h := held{ids: map[string]bool{}}
	for _, n := range e.nodes(t) {
		pid := n.pid("kubelet")
		if pid == 0 {
			continue
		}
		root := fmt.Sprintf("/proc/%d/root/sys/fs/bpf", pid)
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if what := pinnedObject(path); what != "" {
					h.ids[what] = true
				}
			}
			return nil
		})
	}
	return h
}

// pinnedObject says what stands in a file of a BPF file system, as /proc tells it.
func pinnedObject(path string) string {
	name := append([]byte(path), 0)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&name[0])
	attr := make([]byte, 16)
	binary.NativeEndian.PutUint64(attr, uint64(uintptr(unsafe.Pointer(&name[0]))))
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_OBJ_GET, uintptr(unsafe.Pointer(&attr[0])), uintptr(len(attr)))
	if errno != 0 {
		return ""
	}
	defer unix.Close(int(fd))
	info, err := os.Open("/proc/self/fdinfo/" + strconv.Itoa(int(fd)))
	if err != nil {
		return ""
	}
	defer info.Close()
	// A link also tells of its program, after itself.
	found, arrayOfPrograms := map[string]string{}, false
	for lines := bufio.NewScanner(info); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		arrayOfPrograms = arrayOfPrograms || key == "map_type" && strings.TrimSpace(value) == strconv.Itoa(unix.BPF_MAP_TYPE_PROG_ARRAY)
		if kind, ok := strings.CutSuffix(key, "_id"); ok {
			found[kind] = strings.TrimSpace(value)
		}
	}
	if found["map"] != "" && arrayOfPrograms {
		return "" // see bpfUnchanged
	}
	for _, kind := range []string{"link", "map", "prog"} {
		if id := found[kind]; id != "" {
			return strings.Replace(kind, "prog", "program", 1) + " " + id
		}
	}
	return ""
}

// mustBeGone waits until the kernel has none of them any more: it frees what was attached in
// a network namespace when it takes that apart.
func (h held) mustBeGone(t *testing.T) {
	t.Helper()
	if len(h.ids) == 0 {
		t.Error("the nodes had no BPF objects, so that nothing is proven")
	}
	left := []string{"?"}
	for deadline := time.Now().Add(time.Minute); len(left) > 0; {
		left = nil
		for kind := range bpfNext {
			for _, id := range bpfIDs(kind) {
				if what := fmt.Sprint(kind, " ", id); h.ids[what] {
					left = append(left, what)
				}
			}
		}
		if time.Now().After(deadline) {
			break
		}
		time.Sleep(50 * time.Millisecond) // until the kernel had its time: it tells nobody
	}
	slices.Sort(left)
	if len(left) > 0 {
		t.Errorf("%d of %d BPF objects are left: %v", len(left), len(h.ids), left)
	}
	t.Logf("%d BPF objects were held, %d are left", len(h.ids), len(left))
}
