package native

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// containedAnew marks the second run of this program in a container, with its own view of
// control groups.
const containedAnew = "ORRERY_CONTROL_GROUPS"

// containedCgroup2 shows agents that are pods the node's unified control groups.
const containedCgroup2 = "/run/orrery/cgroup2"

// OwnGroups gives this process a view of control groups of its own, and mounts them as it shows
// them, by running the program again: all of its threads need it. On return that is done.
func OwnGroups() error {
	if os.Getenv(containedAnew) == "" {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			return fmt.Errorf("unshare the cgroup namespace: %w; the container has to be privileged", err)
		}
		return syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), containedAnew+"=own"))
	}
	if err := os.Unsetenv(containedAnew); err != nil {
		return err
	}
	cg, err := containedCgroups()
	if err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil { // volumes may propagate both ways
		return fmt.Errorf("share mounts: %w", err)
	}
	b := &rootBuilder{root: "/"}
	if err := unmountBelow("/sys/fs/cgroup"); err != nil {
		return err
	}
	mountCgroups(b, cg)
	// For agents that are pods: programs and maps that are pinned end with the container, and the
	// balancer of sockets sees this node's connections only. Engines with version 1 of control groups
	// put a container into a unified one too, and do not show it.
	b.mount("bpf", bpfFolder, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700")
	b.mount("cgroup2", containedCgroup2, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	for _, sysctls := range []map[string]string{hostSysctls, datapathSysctls} {
		for p, v := range sysctls {
			b.mask("/proc/sys/"+p, v+"\n")
		}
	}
	b.mask("/proc/sys/kernel/random/boot_id", newUUID()+"\n")
	b.wholeProc()
	if b.err != nil {
		return b.err
	}
	return kernelOfNode(cg)
}

// containedCgroups are the hierarchies that the container has, whatever part of each it sees.
func containedCgroups() (cgroups, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return cgroups{}, err
	}
	return parseContainedCgroups(string(raw))
}

func parseContainedCgroups(mountinfo string) (cgroups, error) {
	var lines strings.Builder
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if len(f) < 5 || !strings.HasPrefix(after, "cgroup") {
			continue
		}
		f[3] = "/"
		lines.WriteString(strings.Join(f, " ") + " - " + after)
	}
	return parseCgroups(strings.NewReader(lines.String()))
}

// unmountBelow takes away what is mounted at and below a folder.
func unmountBelow(at string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	var points []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		if f := strings.Fields(s.Text()); len(f) > 4 && (f[4] == at || strings.HasPrefix(f[4], at+"/")) {
			points = append(points, f[4])
		}
	}
	if err := s.Err(); err != nil {
		return err
	}
	for _, p := range slices.Backward(points) {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return nil
}

// lay puts what is the node's where its services look for it. The folders are below State, where
// the store of layers may rename.
func (c Contained) lay(p paths, n node, all contained) error {
	m := &machine{node: n, paths: p, cluster: all.cluster, log: c.Log}
	if err := os.MkdirAll(p.node(n.Name), 0o700); err != nil {
		return err
	}
	if err := m.folders(); err != nil {
		return err
	}
	for _, d := range []string{
		p.nodeVar(n.Name) + "/lib/containerd", p.nodeVar(n.Name) + "/lib/etcd", p.nodeVar(n.Name) + "/log/kubernetes",
		p.nodeEtc(n.Name, "cni", "net.d"), p.layers(),
	} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(p.nodeVar(n.Name), "lib", "etcd"), 0o700); err != nil {
		return err
	}
	// What an audit looks at from outside is there itself: of what a node has behind a link nothing is read.
	b := &rootBuilder{root: "/"}
	b.bind(p.nodeEtc(n.Name, "kubernetes"), "/etc/kubernetes", true)
	b.bind(p.nodeEtc(n.Name, "containerd"), "/etc/containerd", true)
	b.bind(p.nodeEtc(n.Name, "cni"), "/etc/cni", false)
	b.bind(p.nodeVar(n.Name)+"/lib/etcd", "/var/lib/etcd", false)
	if b.err != nil {
		return b.err
	}
	for at, to := range map[string]string{
		"/var/lib/containerd": p.nodeVar(n.Name) + "/lib/containerd",
		"/var/log/orrery":     p.node(n.Name) + "/log", "/var/log/kubernetes": p.nodeVar(n.Name) + "/log/kubernetes",
		nodeLayers: p.layers(), nodeLayerSocket: p.layerSocket(n.Name),
	} {
		if err := pointTo(to, at); err != nil {
			return err
		}
	}
	_, err := writeFile("/etc/machine-id", []byte(machineID(all.Environment, n.Name)+"\n"))
	return err
}

// pointTo replaces what is at a path, unless that is a folder with something in it.
func pointTo(to, at string) error {
	if have, err := os.Readlink(at); err == nil && have == to {
		return nil
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is in the way: %w", at, err)
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	return os.Symlink(to, at)
}
