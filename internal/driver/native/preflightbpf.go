package native

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/statedir"
)

// What Cilium 1.19 asks of the machine, from its system requirements.
var bpfKernel = [2]int{5, 10}

// missingForBPF lists what this machine lacks for network plugin cilium; nothing when it can run it.
func missingForBPF(ctx context.Context, compiler driver.Compiler) []error {
	h := realHost()
	if compiler != nil {
		h.compiler = compiler
	}
	var lacks []error
	for _, p := range h.bpfProbes() {
		if r := p.probe(ctx); r.State == check.Failed {
			lacks = append(lacks, fmt.Errorf("%s: %w", p.name, r.Err))
		}
	}
	return lacks
}

type probe struct {
	name  string
	probe func(ctx context.Context) check.Result
}

func (h host) bpfProbes() []probe {
	return []probe{
		{"bpf", h.checkBPF},
		{"btf", h.checkBTF},
		{"bpffs", h.checkBPFFS},
		{"cgroup2", h.checkCgroup2},
		{"other-cilium", h.checkOtherCilium},
		{"clang", h.checkCompiler},
		{"iproute2", h.checkTools},
	}
}

func (h host) checkBPF(context.Context) check.Result {
	release, err := h.read("/proc/sys/kernel/osrelease")
	if v, ok := twoNumbers(release); err == nil && ok && older(v, bpfKernel) {
		return check.Fail(
			fmt.Errorf("the kernel, Linux %s, is too old for Cilium's BPF programs, which need %d.%d or later", release, bpfKernel[0], bpfKernel[1]),
		)
	}
	switch err := h.bpf(); {
	case err == nil:
		return check.OK("the kernel takes BPF maps from this user")
	case errors.Is(err, unix.ENOSYS):
		return check.Fail(errors.New("this kernel has no bpf() (CONFIG_BPF_SYSCALL)"))
	case errors.Is(err, unix.EPERM):
		return check.Fail(
			errors.New("bpf() is not permitted: CAP_BPF and CAP_NET_ADMIN (or CAP_SYS_ADMIN) are missing; in a container, run it privileged"),
		)
	default:
		return check.Fail(fmt.Errorf("bpf() fails: %w", err))
	}
}

func (h host) checkBTF(context.Context) check.Result {
	if !h.exists("/sys/kernel/btf/vmlinux") {
		return check.Fail(errors.New("this kernel does not describe its types (no /sys/kernel/btf/vmlinux): CONFIG_DEBUG_INFO_BTF is needed"))
	}
	return check.OK("the kernel describes its types (BTF)")
}

// checkBPFFS: nodes mount file systems of their own, so that others are none of their business.
func (h host) checkBPFFS(context.Context) check.Result {
	list, err := h.read("/proc/filesystems")
	if err == nil && !slices.Contains(strings.Fields(list), "bpf") {
		return check.Fail(errors.New("this kernel has no bpf file system, in which programs and maps outlive the agent (CONFIG_BPF_SYSCALL)"))
	}
	mounts, err := h.read("/proc/self/mountinfo")
	if err != nil {
		return check.OK("the kernel has the bpf file system")
	}
	for _, at := range mountsOfType(mounts, "bpf") {
		if at != bpfFolder {
			return check.Skip("a bpf file system is mounted at %s; nodes have their own and do not touch it", at)
		}
	}
	return check.OK("nodes have bpf file systems of their own")
}

func (h host) checkCgroup2(context.Context) check.Result {
	cg, err := h.cgroups()
	switch {
	case err != nil:
		return check.Fail(err)
	case cg.Unified == "":
		return check.Fail(
			errors.New("cgroup2 is not mounted, to which the socket load balancer is attached: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"),
		)
	case !h.writable(cg.Unified):
		return check.Fail(fmt.Errorf("%s is read-only: each node needs a subtree of its own; in a container, run it privileged", cg.Unified))
	}
	return check.OK("cgroup2 is mounted at %s", cg.Unified)
}

// checkOtherCilium: programs that another Cilium attached to the host's root control group see
// the connections of all processes, those of our nodes too.
func (h host) checkOtherCilium(context.Context) check.Result {
	for _, sign := range []string{"/sys/class/net/cilium_host", bpfFolder + "/cilium", bpfFolder + "/tc/globals/cilium_policy_v2"} {
		if h.exists(sign) {
			return check.Fail(
				fmt.Errorf(
					"this host is a node of another Cilium (%s exists), whose socket load balancer would translate the connections of our nodes too: remove it, or set network.plugin: ptp",
					sign,
				),
			)
		}
	}
	return check.OK("no other Cilium runs on this host")
}

func (h host) checkCompiler(ctx context.Context) check.Result {
	which, err := h.compiler(ctx)
	if err != nil {
		return check.Fail(err)
	}
	return check.OK("%s compiles BPF programs", which)
}

func (h host) checkTools(context.Context) check.Result {
	for _, t := range datapathTools {
		if _, err := h.look(t); err != nil {
			return check.Fail(fmt.Errorf("%s not found: apt-get install iproute2", t))
		}
	}
	return check.OK("%s is there", strings.Join(datapathTools, ", "))
}

func older(a, b [2]int) bool { return slices.Compare(a[:], b[:]) < 0 }

// twoNumbers reads the beginning of a version, such as 6.1 of 6.1.0-18-amd64.
func twoNumbers(s string) (v [2]int, ok bool) {
	parts := strings.FieldsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
	if len(parts) < 2 {
		return v, false
	}
	for i := range v {
		n, err := strconv.Atoi(parts[i])
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

// mountsOfType lists where file systems of one type are mounted, from proc_pid_mountinfo(5).
func mountsOfType(mountinfo, fstype string) []string {
	var at []string
	s := bufio.NewScanner(strings.NewReader(mountinfo))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		before, after, ok := strings.Cut(s.Text(), " - ")
		f := strings.Fields(before)
		if ok && len(f) > 4 && strings.HasPrefix(after, fstype+" ") {
			at = append(at, statedir.Unescape(f[4]))
		}
	}
	return at
}

// tryBPF makes a map and lets it go again, bpf(2).
func tryBPF() error {
	attr := struct{ kind, keySize, valueSize, entries uint32 }{unix.BPF_MAP_TYPE_ARRAY, 4, 4, 1}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}
