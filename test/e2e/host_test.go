package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"time"

	"golang.org/x/sys/unix"
)

// host is what a platform must leave as it found it.
type host struct {
	sysctls map[string]string
	links   []string
	routes  string
	rules   string // the nftables rule set, "" when it cannot be listed
	qdiscs  string // "" likewise
	bpf     bpfObjects
}

// restless are sysctls that move by themselves, or with the load.
var restless = regexp.MustCompile(`/random/|/ns_last_pid$|/dentry-state$|/file-nr$|/inode-(nr|state)$|/aio-nr$|/pty/nr$|` +
	`/perf_event_max_sample_rate$|/perf_cpu_time_max_percent$|/nf_conntrack_count$|/tcp_fastopen_key$|/stable_secret$|/binfmt_misc/|/sched_domain/|/max_newidle_lb_cost$|/tcp_mem$|/tainted$|/fs/quota/`)

func lookAtHost() (host, error) {
	h := host{sysctls: map[string]string{}}
	err := filepath.WalkDir("/proc/sys", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || restless.MatchString(path) {
			return nil
		}
		if b, err := os.ReadFile(path); err == nil {
			h.sysctls[path] = string(b)
		}
		return nil
	})
	if err != nil {
		return h, err
	}
	entries, err := os.ReadDir("/sys/class/net")
	if err != nil {
		return h, err
	}
	for _, e := range entries {
		h.links = append(h.links, e.Name())
	}
	b, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return h, err
	}
	h.routes = string(b)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "nft", "--stateless", "list", "ruleset").Output(); err == nil {
		h.rules = string(out)
	}
	if out, err := exec.CommandContext(ctx, "tc", "qdisc", "show").Output(); err == nil {
		h.qdiscs = string(out)
	}
	h.bpf = lookAtBPF()
	return h, nil
}

// egress is what an environment that has a way out moves on the host.
var egress = regexp.MustCompile(`/net/ipv4/(ip_forward|conf/.*/(forwarding|accept_redirects))$`)

// others lists environments of other people, who may make and remove egress meanwhile.
func others() []string {
	var found []string
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/orrery/*")
	unified, _ := filepath.Glob("/sys/fs/cgroup/orrery/*")
	for _, d := range append(dirs, unified...) {
		if name := filepath.Base(d); !strings.HasPrefix(name, "e2e-") && !slices.Contains(found, name) && isDir(d) {
			found = append(found, name)
		}
	}
	return found
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// bounded: the environment as a whole may not take all memory and process numbers of the machine.
func bounded(t *testing.T, e *environment) {
	t.Helper()
	read := func(patterns ...string) (n uint64) {
		for _, pattern := range patterns {
			paths, _ := filepath.Glob(pattern)
			for _, path := range paths {
				if b, err := os.ReadFile(path); err == nil {
					if v, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err == nil {
						n = max(n, v)
					}
				}
			}
		}
		return n
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	total := info.Totalram * uint64(info.Unit)
	groups := []string{"/sys/fs/cgroup/*/orrery/" + e.name, "/sys/fs/cgroup/orrery/" + e.name, "/sys/fs/cgroup/system.slice/orrery-" + e.name + ".scope"}
	var memory, pids []string
	for _, g := range groups {
		memory, pids = append(memory, g+"/memory.limit_in_bytes", g+"/memory.max"), append(pids, g+"/pids.max")
	}
	if got := read(memory...); got == 0 || got >= total {
		t.Errorf("it may take %d bytes of %d", got, total)
	}
	if got, all := read(pids...), read("/proc/sys/kernel/pid_max"); got == 0 || got >= all {
		t.Errorf("it may have %d processes of %d", got, all)
	}
}

// unchanged compares the machine with what it was before the first test.
func unchanged(t *testing.T) {
	t.Helper()
	crowd := append(others(), neighboursBefore...)
	now, err := lookAtHost()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.Sorted(maps.Keys(before.sysctls)) {
		if v, ok := now.sysctls[path]; !ok || v != before.sysctls[path] {
			if len(crowd) > 0 && egress.MatchString(path) {
				t.Logf("the host's %s was %q, is %q: not counted, since %v are on this machine too", path, before.sysctls[path], v, crowd)
				continue
			}
			t.Errorf("the host's %s was %q, is %q", path, before.sysctls[path], v)
		}
	}
	if len(crowd) > 0 {
		return // links, routes and rules may be theirs
	}
	if !slices.Equal(before.links, now.links) {
		t.Errorf("the host's links were %v, are %v", before.links, now.links)
	}
	if before.routes != now.routes {
		t.Errorf("the host's routes were\n%s\nare\n%s", before.routes, now.routes)
	}
	if before.rules != now.rules {
		t.Errorf("the host's nftables rules were\n%s\nare\n%s", before.rules, now.rules)
	}
	if before.qdiscs != now.qdiscs {
		t.Errorf("the host's qdiscs were\n%s\nare\n%s", before.qdiscs, now.qdiscs)
	}
	if !slices.Equal(before.bpf.pins, now.bpf.pins) {
		t.Errorf("pinned on the host was %v, is %v", before.bpf.pins, now.bpf.pins)
	}
}

// audit searches the machine for anything of an environment that was removed. It shares
// no code with orrery's own audit.
func (e *environment) audit(t *testing.T) {
	t.Helper()
	leaks := slices.Concat(e.strayProcesses(), e.strayCgroups(), e.strayListeners(), e.strayFiles())
	for _, l := range leaks {
		t.Errorf("left behind by %s: %s", e.name, l)
	}
	unchanged(t)
}

// strayProcesses finds processes that are in the environment's control groups, name it,
// run from its folder, or see one of its mounts.
func (e *environment) strayProcesses() []string {
	var leaks []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		why := ""
		for _, file := range []string{"cgroup", "cmdline", "environ", "mountinfo"} {
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err == nil && (bytes.Contains(b, []byte(e.name)) || bytes.Contains(b, []byte(e.state()))) {
				why = file
			}
		}
		for _, link := range []string{"exe", "cwd", "root"} {
			if to, err := os.Readlink(filepath.Join(dir, link)); err == nil && strings.HasPrefix(to, e.state()) {
				why = link
			}
		}
		if why == "" {
			continue
		}
		cmd, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		name := string(bytes.ReplaceAll(cmd, []byte{0}, []byte{' '}))
		if name == "" && zombie(dir) {
			continue // of somebody who has not reaped yet; it holds nothing
		}
		leaks = append(leaks, fmt.Sprintf("process %d (%s), by its %s", pid, last(name, 200), why))
	}
	return leaks
}

func zombie(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(after, "Z") || strings.HasPrefix(after, "X")
}

func (e *environment) strayCgroups() []string {
	var leaks []string
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if strings.Contains(line, e.name) {
			leaks = append(leaks, "mount "+strings.TrimSpace(line))
		}
		if len(f) < 5 || !strings.Contains(line, " - cgroup") {
			continue
		}
		_ = filepath.WalkDir(f[4], func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && d.Name() == e.name {
				leaks = append(leaks, "control group "+path)
			}
			return nil
		})
	}
	return leaks
}

// strayListeners finds sockets that listen on the environment's ports, and unix sockets
// in its folder.
func (e *environment) strayListeners() []string {
	var leaks []string
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] != "0A" {
				continue
			}
			_, hex, _ := strings.Cut(f[1], ":")
			port, err := strconv.ParseUint(hex, 16, 16)
			if err == nil && slices.Contains(e.ports, fmt.Sprint(port)) {
				leaks = append(leaks, fmt.Sprintf("listener on port %d", port))
			}
		}
	}
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return append(leaks, err.Error())
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, e.name) {
			leaks = append(leaks, "unix socket "+strings.TrimSpace(line))
		}
	}
	return leaks
}

// strayFiles finds the state folder, and files that carry the name where programs keep
// what should be gone after a boot.
func (e *environment) strayFiles() []string {
	var leaks []string
	if _, err := os.Lstat(e.state()); !errors.Is(err, fs.ErrNotExist) {
		leaks = append(leaks, fmt.Sprintf("state folder %s (%v)", e.state(), err))
	}
	for _, root := range []string{"/run", "/dev/shm", "/var/lib/cni", "/etc/cni", "/var/log", "/var/lib/containerd", "/var/lib/kubelet"} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.Contains(d.Name(), e.name) {
				leaks = append(leaks, "file "+path)
			}
			return nil
		})
	}
	return leaks
}

// The search itself must be able to find something.
func TestAuditFinds(t *testing.T) {
	if skipped != "" {
		t.Skip(skipped)
	}
	e := &environment{name: "e2e-audit-self"}
	if err := os.MkdirAll(e.state(), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(e.state()) })
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	cmd.Env = append(os.Environ(), "NAME="+e.name)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if len(e.strayProcesses()) == 0 {
		t.Error("a process that has the name in its environment was not found")
	}
	if len(e.strayFiles()) == 0 {
		t.Error("a state folder was not found")
	}
}
