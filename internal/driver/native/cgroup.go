package native

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/orrery-dev/orrery/internal/check"
)

// cgroups is how the host has its control groups mounted. On v1 a group of ours exists in
// every hierarchy, also the named ones: libraries that find a line in /proc/PID/cgroup
// without its mount give up.
type cgroups struct {
	V1      []hierarchy
	Unified string // mount point of cgroup2, "" when not mounted
	// Scope is the group that somebody gave to us with its controllers; what is above it is theirs
	// to change. "" when all is ours.
	Scope string `json:"-"`
}

// hierarchy is one mounted v1 hierarchy.
type hierarchy struct {
	Mount   string // on the host
	Options string // of the mount: "cpu,cpuacct" or "none,name=systemd"
}

// v2 reports whether controllers are in the unified hierarchy.
func (c cgroups) v2() bool { return len(c.V1) == 0 }

// root of everything in the environment, relative to a hierarchy's mount.
func (c cgroups) root(env string) string { return cmp.Or(c.Scope, cgroupRoot(env)) }

func hostCgroups() (cgroups, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return cgroups{}, err
	}
	defer f.Close()
	return parseCgroups(f)
}

// parseCgroups reads the format of proc_pid_mountinfo(5).
func parseCgroups(r io.Reader) (cgroups, error) {
	var c cgroups
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		before, after, ok := strings.Cut(s.Text(), " - ")
		f, a := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(a) < 3 || f[3] != "/" {
			continue // also leaves out binds of a part of a hierarchy
		}
		switch a[0] {
		case "cgroup2":
			if c.Unified == "" {
				c.Unified = f[4]
			}
		case "cgroup":
			var ctrl []string
			for _, o := range strings.Split(a[2], ",") {
				switch {
				case strings.HasPrefix(o, "name="):
					ctrl = append(ctrl, "none", o)
				case slices.Contains(v1Controllers, o):
					ctrl = append(ctrl, o)
				}
			}
			h := hierarchy{Mount: f[4], Options: strings.Join(ctrl, ",")}
			if h.Options != "" && !slices.ContainsFunc(c.V1, func(o hierarchy) bool { return o.Options == h.Options }) {
				c.V1 = append(c.V1, h)
			}
		}
	}
	if err := s.Err(); err != nil {
		return c, err
	}
	// A host on v2 may still have the named v1 hierarchy of an old systemd: what counts is
	// where the controllers are.
	if c.Unified != "" && !slices.ContainsFunc(c.V1, func(h hierarchy) bool { return strings.Contains(h.Options, "memory") }) {
		c.V1 = nil
	}
	if c.Unified == "" && len(c.V1) == 0 {
		return c, errors.New("no control groups are mounted: mount cgroup2 on /sys/fs/cgroup")
	}
	return c, nil
}

var v1Controllers = []string{
	"cpu",
	"cpuacct",
	"cpuset",
	"memory",
	"devices",
	"freezer",
	"net_cls",
	"net_prio",
	"blkio",
	"perf_event",
	"hugetlb",
	"pids",
	"rdma",
	"misc",
}

// mounts are all hierarchies in which groups of ours are made.
func (c cgroups) mounts() []string {
	var m []string
	for _, h := range c.V1 {
		m = append(m, h.Mount)
	}
	if c.Unified != "" {
		m = append(m, c.Unified)
	}
	return m
}

// create makes the group (such as /orrery/local/server1) everywhere. Idempotent.
func (c cgroups) create(group string) error {
	for _, h := range c.V1 {
		if err := createV1(h, group); err != nil {
			return fmt.Errorf("cgroup %s in %s: %w", group, h.Mount, err)
		}
	}
	if c.Unified == "" {
		return nil
	}
	at, ours := c.Unified, filepath.Join(c.Unified, c.Scope)
	for _, e := range strings.Split(strings.Trim(group, "/"), "/") {
		if c.v2() && len(at) >= len(ours) {
			delegate(at)
		}
		at = filepath.Join(at, e)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cgroup %s: %w", group, err)
		}
	}
	return nil
}

func createV1(h hierarchy, group string) error {
	at := h.Mount
	for _, e := range strings.Split(strings.Trim(group, "/"), "/") {
		parent := at
		at = filepath.Join(at, e)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if !slices.Contains(strings.Split(h.Options, ","), "cpuset") {
			continue
		}
		// A group without CPUs and memory nodes takes no process; later children inherit.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			b, err := os.ReadFile(filepath.Join(parent, f))
			if err != nil {
				return err
			}
			if err := put(filepath.Join(at, f), string(b)); err != nil {
				return err
			}
		}
		if err := put(filepath.Join(at, "cgroup.clone_children"), "1"); err != nil {
			return err
		}
	}
	return nil
}

// delegate gives the children of a v2 group every controller that it has itself. One that
// cannot be given (a realtime process keeps cpu, say) must not keep the others away. A group with
// processes of its own, unless it is the root of all, could hand on only some controllers, and for
// that becomes one of threads, below which no process may be: it is left alone.
func delegate(dir string) {
	if procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")); len(procs) > 0 && exists(filepath.Join(dir, "cgroup.type")) {
		return
	}
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for _, ctrl := range strings.Fields(string(b)) {
		_ = put(filepath.Join(dir, "cgroup.subtree_control"), "+"+ctrl)
	}
}

// put writes to a file of a control group, which it never creates.
func put(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// join moves a process into the group everywhere.
func (c cgroups) join(group string, pid int) error {
	for _, m := range c.mounts() {
		p := filepath.Join(m, group, "cgroup.procs")
		if err := put(p, strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("join cgroup %s: %w", p, err)
		}
	}
	return nil
}

// processes lists the PIDs in the group and below it, in any hierarchy.
func (c cgroups) processes(group string) []int {
	seen := map[int]bool{}
	var pids []int
	for _, m := range c.mounts() {
		for _, dir := range subgroups(filepath.Join(m, group)) {
			b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil {
				continue
			}
			for _, f := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(f); err == nil && pid > 0 && !seen[pid] {
					seen[pid] = true
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// existing lists the folders of the groups and below them, deepest first.
func (c cgroups) existing(groups ...string) []string {
	var dirs []string
	for _, m := range c.mounts() {
		for _, group := range groups {
			d := subgroups(filepath.Join(m, group))
			slices.Reverse(d)
			dirs = append(dirs, d...)
		}
	}
	return dirs
}

// subgroups lists dir and the folders below it, parents first.
func subgroups(dir string) []string {
	var dirs []string
	_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	return dirs
}

// kill ends every process in the group and below it and waits until none is left.
func (c cgroups) kill(ctx context.Context, group string) error {
	if c.Unified != "" {
		// Atomic where the kernel has it (5.14); the loop below covers the rest.
		_ = put(filepath.Join(c.Unified, group, "cgroup.kill"), "1")
	}
	self := os.Getpid()
	return check.Until(ctx, check.Pause{First: 5 * time.Millisecond}, func() error {
		left := slices.DeleteFunc(c.processes(group), func(pid int) bool { return pid == self || zombie(pid) })
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return fmt.Errorf("%d processes of cgroup %s do not end, such as PID %d", len(left), group, left[0])
	})
}

// remove removes the group and everything below it, bottom-up. A group stays busy for a
// moment after its last process ended, hence the retries.
func (c cgroups) remove(ctx context.Context, group string) error {
	return check.Until(ctx, check.Pause{First: 10 * time.Millisecond}, func() error {
		var last error
		for _, dir := range c.existing(group) {
			if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, syscall.ENOENT) {
				last = fmt.Errorf("remove cgroup %s: %w", dir, err)
			}
		}
		return last
	})
}

// removeEmptyParent removes /orrery once no environment is left in it, and reports whether it did.
func (c cgroups) removeEmptyParent(group string) bool {
	gone := false
	for i, m := range c.mounts() {
		err := syscall.Rmdir(filepath.Join(m, path.Dir(group)))
		gone = gone || i == 0 && err == nil
	}
	return gone
}

func zombie(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	i := strings.LastIndexByte(string(b), ')')
	return i >= 0 && len(b) > i+2 && (b[i+2] == 'Z' || b[i+2] == 'X')
}
