package native

import (
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
	"github.com/orrery-dev/orrery/internal/spec"
)

// goodHost can run the default environment.
func goodHost() host {
	files := map[string]string{
		"/proc/filesystems":                       "nodev\ttmpfs\nnodev\toverlay\nnodev\tmqueue\nnodev\tbpf\n\text4",
		"/proc/sys/kernel/osrelease":              "6.1.0-test",
		"/proc/sys/fs/inotify/max_user_instances": "128",
		"/proc/meminfo":                           "MemTotal: 16000000 kB\nMemAvailable:    8000000 kB\n",
		"/sys/fs/cgroup/cgroup.controllers":       "cpuset cpu io memory hugetlb pids",
	}
	return host{
		euid:    func() int { return 0 },
		cgroups: func() (cgroups, error) { return cgroups{Unified: "/sys/fs/cgroup"}, nil },
		read: func(path string) (string, error) {
			if c, ok := files[path]; ok {
				return c, nil
			}
			return "", errors.New("no such file")
		},
		exists:       func(string) bool { return true },
		writable:     func(string) bool { return true },
		look:         func(p string) (string, error) { return "/usr/sbin/" + p, nil },
		nftables:     func(context.Context) error { return nil },
		disk:         func(string) (uint64, bool, error) { return 50 << 30, false, nil },
		listen:       func(int) error { return nil },
		routes:       func() ([]netip.Prefix, error) { return []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}, nil },
		inotify:      func() int { return 3 },
		bpf:          func() error { return nil },
		compiler:     func(context.Context) (string, error) { return "/usr/bin/clang", nil },
		kept:         func() []string { return nil },
		place:        goodPlace,
		resolvers:    func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.168.1.1")} },
		forwardDrops: func(context.Context, string) ([]string, error) { return nil, nil },
	}
}

func reading(h *host, path, content string) {
	before := h.read
	h.read = func(p string) (string, error) {
		if p == path {
			return content, nil
		}
		return before(p)
	}
}

func TestPreflight(t *testing.T) {
	for _, tc := range []struct {
		name  string
		bend  func(*host, *spec.Environment)
		which string
		state check.State
		says  string
	}{
		{"all good", func(*host, *spec.Environment) {}, "", "", ""},
		{"not root", func(h *host, _ *spec.Environment) { h.euid = func() int { return 1000 } }, "root", check.Failed, "sudo"},
		{"a limit that cannot be raised", func(h *host, _ *spec.Environment) {
			h.kept = func() []string { return []string{"the limit of 1024 for open files (ulimit -n)"} }
		}, "inherited", check.Skipped, "limit of 1024 for open files"},
		{"no cgroups", func(h *host, _ *spec.Environment) {
			h.cgroups = func() (cgroups, error) { return cgroups{}, errors.New("none mounted") }
		}, "cgroups", check.Failed, "none mounted"},
		{"a controller is missing", func(h *host, _ *spec.Environment) {
			reading(h, "/sys/fs/cgroup/cgroup.controllers", "cpu io pids cpuset")
		}, "cgroups", check.Failed, "cgroup_enable=memory"},
		{"no cpuset", func(h *host, _ *spec.Environment) {
			reading(h, "/sys/fs/cgroup/cgroup.controllers", "cpu io memory pids")
		}, "cgroups", check.Skipped, "CPU and memory managers"},
		{"v1 without cpuset", func(h *host, _ *spec.Environment) {
			h.cgroups = func() (cgroups, error) {
				return cgroups{V1: []hierarchy{{"/c/cpu", "cpu,cpuacct"}, {"/c/m", "memory"}, {"/c/p", "pids"}}}, nil
			}
		}, "cgroups", check.Failed, "cgroup_enable=cpuset"},
		{"v1 is enough", func(h *host, _ *spec.Environment) {
			h.cgroups = func() (cgroups, error) {
				return cgroups{V1: []hierarchy{{"/c/cpu", "cpu,cpuacct"}, {"/c/m", "memory"}, {"/c/s", "cpuset"}, {"/c/p", "pids"}}}, nil
			}
		}, "", "", ""},
		{"cgroups are read-only", func(h *host, _ *spec.Environment) { h.writable = func(string) bool { return false } }, "cgroups", check.Failed, "privileged"},
		{"no namespaces", func(h *host, _ *spec.Environment) {
			h.exists = func(p string) bool { return p != "/proc/self/ns/cgroup" }
		}, "kernel", check.Failed, "cgroup namespaces"},
		{"no overlayfs", func(h *host, _ *spec.Environment) { reading(h, "/proc/filesystems", "nodev tmpfs\nmqueue") }, "kernel", check.Failed, "modprobe overlay"},
		{"overlayfs is a module", func(h *host, _ *spec.Environment) {
			reading(h, "/proc/filesystems", "nodev tmpfs\nmqueue")
			reading(h, "/lib/modules/6.1.0-test/modules.dep", "kernel/fs/overlayfs/overlay.ko.xz:")
		}, "", "", ""},
		{"no nft", func(h *host, _ *spec.Environment) {
			h.look = func(p string) (string, error) {
				if p == "nft" {
					return "", exec.ErrNotFound
				}
				return p, nil
			}
			h.nftables = func(context.Context) error { return exec.ErrNotFound }
		}, "programs", check.Failed, "apt-get install nftables"},
		{"no nf_tables", func(h *host, _ *spec.Environment) {
			h.nftables = func(context.Context) error { return errors.New("add table ip: Operation not supported") }
		}, "nftables", check.Failed, "NF_TABLES_IPV4"},
		{"few inotify instances", func(h *host, _ *spec.Environment) { h.inotify = func() int { return 100 } }, "inotify", check.Failed, "sysctl -w fs.inotify.max_user_instances=256"},
		{"little memory", func(h *host, _ *spec.Environment) { reading(h, "/proc/meminfo", "MemAvailable: 1000000 kB\n") }, "memory", check.Failed, "2.0 GiB"},
		{"less memory for one node", func(h *host, e *spec.Environment) {
			reading(h, "/proc/meminfo", "MemAvailable: 1000000 kB\n")
			none := 0
			e.Servers, e.Agents = 1, &none
		}, "quorum", check.Skipped, "one server"},
		{"little disk", func(h *host, _ *spec.Environment) {
			h.disk = func(string) (uint64, bool, error) { return 1 << 30, false, nil }
		}, "disk", check.Failed, "2.5 GiB"},
		{"state on overlay", func(h *host, _ *spec.Environment) {
			h.disk = func(string) (uint64, bool, error) { return 1 << 40, true, nil }
		}, "disk", check.Failed, "overlay"},
		{"programs cannot run from the state", func(h *host, _ *spec.Environment) {
			h.place = func(path string) (place, error) {
				p, err := goodPlace(path)
				p.mount, p.options = "/mnt/vm", []string{"rw", "noexec"}
				return p, err
			}
		}, "folders", check.Failed, "/mnt/vm is mounted with noexec"},
		{"port in use", func(h *host, _ *spec.Environment) {
			h.listen = func(p int) error {
				if p == 1235 {
					return errors.New("address already in use")
				}
				return nil
			}
		}, "ports", check.Failed, "ports.registry"},
		{"overlap", func(h *host, _ *spec.Environment) {
			h.routes = func() ([]netip.Prefix, error) { return []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, nil }
		}, "networks", check.Skipped, "harmless"},
		{"only a resolver on loopback", func(h *host, e *spec.Environment) {
			h.resolvers = func() []netip.Addr { return nil }
			e.Network.Egress = true
		}, "resolver", check.Failed, "127.0.0.1"},
		{"a filter drops what is forwarded", func(h *host, e *spec.Environment) {
			h.forwardDrops = func(_ context.Context, link string) ([]string, error) {
				return []string{"nft insert rule … " + link}, nil
			}
			e.Network.Egress = true
		}, "forwarding", check.Failed, "nft insert rule … orr-"},
		{"overlap with egress", func(h *host, e *spec.Environment) {
			h.routes = func() ([]netip.Prefix, error) { return []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24")}, nil }
			e.Network.Egress = true
		}, "networks", check.Failed, "network.pods"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, h := spec.Named("unit"), goodHost()
			e.Ports, e.Network.Plugin = spec.Ports{API: 1234, Registry: 1235}, spec.PluginPTP
			tc.bend(&h, &e)
			d, err := New(Options{Spec: e, StateDir: t.TempDir(), Journal: &memoryJournal{}})
			if err != nil {
				t.Fatal(err)
			}
			d.host = h
			found := tc.which == ""
			for _, c := range d.Preflight(t.Context()) {
				r := c.Probe(t.Context())
				switch {
				case c.Name == tc.which:
					found = true
					if r.State != tc.state || !strings.Contains(r.Message, tc.says) {
						t.Errorf("%s: %s %q, want %s with %q", c.Name, r.State, r.Message, tc.state, tc.says)
					}
				case tc.which == "" && r.State != check.Succeeded:
					t.Errorf("%s: %s %q", c.Name, r.State, r.Message)
				case r.State == check.Failed && !(tc.which == "programs" && c.Name == "nftables"):
					t.Errorf("%s fails too: %q", c.Name, r.Message)
				}
			}
			if !found {
				t.Errorf("no condition %q", tc.which)
			}
		})
	}
}

func TestAbsentEnvironment(t *testing.T) {
	e := spec.Named("unit-absent")
	e.Ports, e.Network.Plugin = spec.Ports{API: 1234, Registry: 1235}, spec.PluginPTP
	d, err := New(Options{Spec: e, StateDir: t.TempDir() + "/none", Journal: &memoryJournal{}})
	if err != nil {
		t.Fatal(err)
	}
	if o, err := d.Observe(t.Context()); err != nil || o.Phase != driver.PhaseAbsent {
		t.Errorf("%+v, %v", o, err)
	}
	if err := d.Ensure(t.Context()); err == nil || !strings.Contains(err.Error(), "kubelet") {
		t.Errorf("ensure without a distribution: %v", err)
	}
	if err := d.KillNode(t.Context(), "server1"); !errors.Is(err, errNoSupervisor) {
		t.Errorf("kill: %v", err)
	}
}
