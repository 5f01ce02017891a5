package native

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/spec"
)

// fittingHost can run network plugin cilium.
func fittingHost() host {
	h := goodHost()
	h.exists = func(p string) bool { return p == "/sys/kernel/btf/vmlinux" || strings.HasPrefix(p, "/proc/self/ns/") }
	return h
}

func TestBPFProbes(t *testing.T) {
	for _, tc := range []struct {
		name  string
		bend  func(*host)
		which string
		state check.State
		says  string
	}{
		{"all good", func(*host) {}, "", check.Succeeded, ""},
		{"old kernel", func(h *host) { reading(h, "/proc/sys/kernel/osrelease", "5.4.0-150-generic") }, "bpf", check.Failed, "5.10"},
		{"new kernel", func(h *host) { reading(h, "/proc/sys/kernel/osrelease", "6.18.44") }, "", check.Succeeded, ""},
		{"no capability", func(h *host) { h.bpf = func() error { return unix.EPERM } }, "bpf", check.Failed, "CAP_BPF"},
		{"no bpf()", func(h *host) { h.bpf = func() error { return unix.ENOSYS } }, "bpf", check.Failed, "CONFIG_BPF_SYSCALL"},
		{"bpf() fails otherwise", func(h *host) { h.bpf = func() error { return unix.ENOMEM } }, "bpf", check.Failed, "cannot allocate memory"},
		{"no BTF", func(h *host) { h.exists = func(string) bool { return false } }, "btf", check.Failed, "CONFIG_DEBUG_INFO_BTF"},
		{"no bpffs", func(h *host) { reading(h, "/proc/filesystems", "nodev tmpfs") }, "bpffs", check.Failed, "bpf file system"},
		{"bpffs elsewhere", func(h *host) {
			reading(h, "/proc/self/mountinfo", "29 23 0:26 / /mnt/my\\040bpf rw,relatime shared:1 - bpf bpf rw\n")
		}, "bpffs", check.Skipped, "/mnt/my bpf"},
		{"bpffs at its place", func(h *host) {
			reading(h, "/proc/self/mountinfo", "29 23 0:26 / /sys/fs/bpf rw,relatime - bpf bpf rw\n")
		}, "", check.Succeeded, ""},
		{"no cgroup2", func(h *host) {
			h.cgroups = func() (cgroups, error) { return cgroups{V1: []hierarchy{{"/c/m", "memory"}}}, nil }
		}, "cgroup2", check.Failed, "mount -t cgroup2"},
		{"cgroup2 is read-only", func(h *host) { h.writable = func(string) bool { return false } }, "cgroup2", check.Failed, "privileged"},
		{"another Cilium", func(h *host) {
			before := h.exists
			h.exists = func(p string) bool { return p == "/sys/class/net/cilium_host" || before(p) }
		}, "other-cilium", check.Failed, "another Cilium"},
		{"no ip", func(h *host) {
			h.look = func(string) (string, error) { return "", exec.ErrNotFound }
		}, "iproute2", check.Failed, "apt-get install iproute2"},
		{"no clang", func(h *host) {
			h.compiler = func(context.Context) (string, error) { return "", errors.New("clang not found") }
		}, "clang", check.Failed, "clang not found"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := fittingHost()
			tc.bend(&h)
			for _, p := range h.bpfProbes() {
				want, says := check.Succeeded, ""
				if p.name == tc.which {
					want, says = tc.state, tc.says
				}
				if r := p.probe(t.Context()); r.State != want || !strings.Contains(r.Message, says) {
					t.Errorf("%s: %s %q, want %s with %q", p.name, r.State, r.Message, want, says)
				}
			}
		})
	}
}

// The plugin decides which conditions a host has to meet.
func TestPreflightOfPlugins(t *testing.T) {
	for plugin, want := range map[string]bool{spec.PluginPTP: false, spec.PluginCilium: true} {
		e := spec.Named("unit")
		e.Ports, e.Network.Plugin = spec.Ports{API: 1234, Registry: 1235}, plugin
		d, err := New(Options{Spec: e, StateDir: t.TempDir(), Journal: &memoryJournal{}})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, c := range d.Preflight(t.Context()) {
			names = append(names, c.Name)
		}
		for _, p := range fittingHost().bpfProbes() {
			if slices.Contains(names, p.name) != want {
				t.Errorf("%s: condition %s there %t, want %t", plugin, p.name, !want, want)
			}
		}
	}
}

func TestUndecidedPlugin(t *testing.T) {
	e := spec.Named("unit")
	e.Ports, e.Network.Plugin = spec.Ports{API: 1234, Registry: 1235}, spec.PluginAuto
	if _, err := New(Options{Spec: e, StateDir: t.TempDir(), Journal: &memoryJournal{}}); err == nil || !strings.Contains(err.Error(), "network.plugin") {
		t.Errorf("got %v", err)
	}
}

func TestTwoNumbers(t *testing.T) {
	for s, want := range map[string]string{"6.1.0-18-amd64": "[6 1] true", "5.10": "[5 10] true", "6": "[0 0] false", "": "[0 0] false", "99999999999999999999.1": "[0 0] false"} {
		v, ok := twoNumbers(s)
		if got := fmt.Sprint(v, ok); got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

func FuzzMountsOfType(f *testing.F) {
	f.Add("29 23 0:26 / /sys/fs/bpf rw,relatime shared:1 - bpf bpf rw,mode=700\n", "bpf")
	f.Add("1 2 3 - bpf ", "bpf")
	f.Fuzz(func(t *testing.T, mountinfo, fstype string) {
		for _, at := range mountsOfType(mountinfo, fstype) {
			if strings.Contains(at, "\n") && !strings.Contains(mountinfo, `\012`) {
				t.Errorf("%q", at)
			}
		}
	})
}
