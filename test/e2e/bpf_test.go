package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/orrery-dev/orrery/internal/bpf"
)

// bpfKinds are what the kernel lists. Nothing is opened by its identifier: see
// [bpf.Object.Exists] for what that does to a busy kernel.
var bpfKinds = []string{"program", "map", "link"}

// bpfObjects are what the machine has, and what is pinned in its own file system.
type bpfObjects struct {
	all  map[bpf.Object]bool
	pins []string
}

func lookAtBPF() bpfObjects {
	o := bpfObjects{all: map[bpf.Object]bool{}}
	for _, kind := range bpfKinds {
		for _, object := range bpf.List(kind) {
			o.all[object] = true
		}
	}
	_ = filepath.WalkDir("/sys/fs/bpf", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			o.pins = append(o.pins, path)
		}
		return nil
	})
	return o
}

// since are the objects that were not there before.
func (o bpfObjects) since(before bpfObjects) (added []bpf.Object) {
	for object := range o.all {
		if !before.all[object] {
			added = append(added, object)
		}
	}
	return added
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
	arrays := 0
	eventually(t, "the machine has no BPF objects that were not there before", 90*time.Second, func(context.Context) error {
		left := lookAtBPF().since(before.bpf)
		if !slices.ContainsFunc(left, func(o bpf.Object) bool { return o.Kind != "map" }) {
			all := len(left)
			left = slices.DeleteFunc(left, bpf.Object.IsProgramArray)
			arrays = all - len(left)
		}
		if len(left) > 0 {
			type object bpf.Object // which is not opened to be called by its name
			var plain []object
			for _, o := range left {
				plain = append(plain, object(o))
			}
			return fmt.Errorf("%v", plain)
		}
		return nil
	})
	t.Logf("of the machine's BPF objects none are new but %d empty arrays of programs", arrays)
}

// held are the BPF objects of an environment: what its nodes pinned, each in its own file
// system. Attachments to control groups and to links are among them, as BPF links.
type held []bpf.Object

func (e *environment) bpfHeld(t *testing.T) held {
	t.Helper()
	var pids []int
	for _, n := range e.nodes(t) {
		if pid := n.pid("kubelet"); pid != 0 {
			pids = append(pids, pid)
		}
	}
	return bpf.PinnedBy(pids)
}

// mustBeGone waits until the kernel has none of them any more: it frees what was attached in
// a network namespace when it takes that apart.
func (h held) mustBeGone(t *testing.T) {
	t.Helper()
	if len(h) == 0 {
		t.Error("the nodes had no BPF objects, so that nothing is proven")
	}
	left := bpf.Left(t.Context(), slices.Clone(h), bpf.Gone)
	if len(left) > 0 {
		t.Errorf("%d of %d BPF objects are left: %v", len(left), len(h), left)
	}
	t.Logf("%d BPF objects were held, %d are left", len(h), len(left))
}
