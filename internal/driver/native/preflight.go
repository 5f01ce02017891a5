package native

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/spec"
)

// What a cluster needs, measured with 3 servers and 2 agents.
const (
	serverMemory = 400 << 20 // bytes
	agentMemory  = 150 << 20
	// Of network plugin cilium, besides.
	ciliumAgentMemory    = 125 << 20
	ciliumOperatorMemory = 90 << 20
	spareMemory          = 512 << 20 // for the supervisor, the mirror and the page cache

	nodeDisk  = 300 << 20
	spareDisk = 1 << 30

	inotifyPerServer = 21
	inotifyPerAgent  = 10
)

// Preflight implements [driver.Driver].
func (d *Driver) Preflight(context.Context) []check.Condition {
	_, err := supervisorIdentity(d.paths)
	running := err == nil
	probes := []probe{
		{"root", d.checkRoot},
		{"cgroups", d.checkCgroups},
		{"kernel", d.checkKernel},
		{"programs", d.checkPrograms},
		{"nftables", d.checkNftables},
		{"inotify", func(context.Context) check.Result { return d.checkInotify(running) }},
		{"memory", func(context.Context) check.Result { return d.checkMemory(running) }},
		{"disk", d.checkDisk},
		{"folders", d.checkFolders},
		{"layers", d.checkLayers},
		{"ports", func(context.Context) check.Result { return d.checkPorts(running) }},
		{"networks", d.checkNetworks},
		{"quorum", d.checkQuorum},
		{"inherited", d.checkInherited},
	}
	probes = append(probes, d.egressProbes()...)
	probes = append(probes, networks[d.cluster.Plugin].probes(d.host)...)
	var c []check.Condition
	for _, p := range probes {
		c = append(c, check.Condition{Component: "host", Name: p.name, Probe: p.probe})
	}
	return c
}

func (d *Driver) checkRoot(context.Context) check.Result {
	if uid := d.host.euid(); uid != 0 {
		return check.Fail(
			fmt.Errorf("this is user %d: nodes are namespaces, mounts and control groups, which only root can make; run it with sudo", uid),
		)
	}
	return check.OK("runs as root")
}

// checkInherited: umask, limits, priorities and so on are set by the supervisor, unless it may not.
func (d *Driver) checkInherited(context.Context) check.Result {
	if kept := d.host.kept(); len(kept) > 0 {
		return check.Skip(
			"nodes and pods will have from this process, since nothing here may change it: %s; start it from where that is not so",
			strings.Join(kept, ", "),
		)
	}
	return check.OK("nodes and pods inherit nothing of this process")
}

func (d *Driver) checkCgroups(context.Context) check.Result {
	cg, err := d.host.cgroups()
	if err != nil {
		return check.Fail(err)
	}
	var have []string
	if cg.v2() {
		s, err := d.host.read(cg.Unified + "/cgroup.controllers")
		if err != nil {
			return check.Fail(fmt.Errorf("the control groups at %s: %w", cg.Unified, err))
		}
		have = strings.Fields(s)
	} else {
		for _, h := range cg.V1 {
			have = append(have, strings.Split(h.Options, ",")...)
		}
	}
	// Of v2 the kubelet and runc use what is there.
	pinning := slices.Contains(have, "cpuset")
	for _, need := range []string{"cpu", "cpuset", "memory", "pids"} {
		if !slices.Contains(have, need) && (need != "cpuset" || !cg.v2()) {
			return check.Fail(
				fmt.Errorf(
					"the kernel offers no control group controller %q (it has %s); a container without it cannot hold nodes, and some kernels need cgroup_enable=%s on their command line",
					need,
					strings.Join(have, " "),
					need,
				),
			)
		}
	}
	for _, m := range cg.mounts() {
		if !d.host.writable(m) {
			return check.Fail(fmt.Errorf("%s is read-only: nodes need control groups of their own; in a container, run it privileged", m))
		}
	}
	version := "v1"
	if cg.v2() {
		version = "v2"
	}
	if !pinning {
		return check.Skip(
			"the kernel offers no control group controller \"cpuset\": nodes work without, but no container can be tied to CPUs or memory nodes (the kubelet's static CPU and memory managers)",
		)
	}
	return check.OK("control groups %s at %s", version, cg.mounts()[0])
}

func (d *Driver) checkKernel(context.Context) check.Result {
	for _, ns := range []string{"mnt", "pid", "net", "uts", "ipc", "cgroup"} {
		if !d.host.exists("/proc/self/ns/" + ns) {
			return check.Fail(fmt.Errorf("this kernel has no %s namespaces: Linux 4.19 or later with CONFIG_NAMESPACES is needed", ns))
		}
	}
	for _, fs := range []string{"overlay", "tmpfs", "mqueue"} {
		if !d.filesystem(fs) {
			return check.Fail(fmt.Errorf("this kernel has no %s file system: load or build the module (modprobe %s)", fs, fs))
		}
	}
	return check.OK("namespaces and overlayfs are there")
}

// filesystem reports whether the kernel has it, or has a module that a mount would load.
func (d *Driver) filesystem(name string) bool {
	list, err := d.host.read("/proc/filesystems")
	if err != nil || slices.Contains(strings.Fields(list), name) {
		return true // nobody can say without /proc, and starting will
	}
	release, err := d.host.read("/proc/sys/kernel/osrelease")
	if err != nil {
		return false
	}
	modules, _ := d.host.read("/lib/modules/" + release + "/modules.dep")
	return strings.Contains(modules, "/"+name+".ko")
}

// packages name where Debian has a program.
var packages = map[string]string{"nft": "nftables", "mount": "mount", "umount": "mount"}

func (d *Driver) checkPrograms(context.Context) check.Result {
	var missing, from []string
	for _, p := range hostTools {
		if _, err := d.host.look(p); err != nil {
			missing = append(missing, p)
			if !slices.Contains(from, packages[p]) {
				from = append(from, packages[p])
			}
		}
	}
	if len(missing) > 0 {
		return check.Fail(fmt.Errorf("%s not found: apt-get install %s", strings.Join(missing, ", "), strings.Join(from, " ")))
	}
	return check.OK("%s are there", strings.Join(hostTools, ", "))
}

func (d *Driver) checkNftables(ctx context.Context) check.Result {
	err := d.host.nftables(ctx)
	switch {
	case err == nil:
		return check.OK("the kernel has what Services are made of")
	case errors.Is(err, exec.ErrNotFound):
		return check.Skip("cannot be told without nft") // which another condition refuses
	case d.host.euid() != 0:
		return check.Skip("only root can ask the kernel for nf_tables")
	}
	return check.Fail(fmt.Errorf("the kernel refuses what Services are made of"+
		" (CONFIG_NF_TABLES, NF_TABLES_IPV4, NFT_NAT, NFT_MASQ, NFT_NUMGEN, NFT_FIB_IPV4; or their modules are missing): %w", err))
}

func (d *Driver) checkInotify(running bool) check.Result {
	const path = "/proc/sys/fs/inotify/max_user_instances"
	s, err := d.host.read(path)
	if err != nil {
		return check.Skip("cannot read %s: %v", path, err)
	}
	limit, err := strconv.Atoi(s)
	if err != nil {
		return check.Skip("%s: %v", path, err)
	}
	used := 0
	if !running { // ours are among those in use
		used = d.host.inotify()
	}
	servers := len(d.cluster.servers())
	need := used + inotifyPerServer*servers + inotifyPerAgent*(len(d.cluster.Nodes)-servers)
	if need > limit {
		return check.Fail(
			fmt.Errorf("%d nodes need about %d inotify instances and %d are in use, but the limit is %d: sysctl -w fs.inotify.max_user_instances=%d",
				len(d.cluster.Nodes), need-used, used, limit, roundUp(need+64, 128)),
		)
	}
	return check.OK("%d of %d inotify instances will be in use", need, limit)
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

func (d *Driver) checkMemory(running bool) check.Result {
	if running {
		return check.OK("the environment runs already")
	}
	servers := len(d.cluster.servers())
	need := uint64(spareMemory + servers*serverMemory + (len(d.cluster.Nodes)-servers)*agentMemory)
	if d.cluster.Plugin == spec.PluginCilium {
		need += uint64(len(d.cluster.Nodes)*ciliumAgentMemory + servers*ciliumOperatorMemory)
	}
	s, err := d.host.read("/proc/meminfo")
	if err != nil {
		return check.Skip("cannot read /proc/meminfo: %v", err)
	}
	have, ok := available(s)
	if !ok {
		return check.Skip("/proc/meminfo does not say what is available")
	}
	if have < need {
		return check.Fail(
			fmt.Errorf("%d servers and %d agents need about %s of memory, %s are available: end something else or make fewer nodes (servers, agents)",
				servers, len(d.cluster.Nodes)-servers, size(need), size(have)),
		)
	}
	return check.OK("about %s of %s available memory will be used", size(need), size(have))
}

func available(meminfo string) (uint64, bool) {
	for line := range strings.Lines(meminfo) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kb, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10, err == nil
		}
	}
	return 0, false
}

func size(b uint64) string {
	if b < 1<<30 {
		return fmt.Sprintf("%d MiB", b>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(b)/(1<<30))
}

func (d *Driver) checkDisk(context.Context) check.Result {
	dir := string(d.paths)
	free, overlay, err := d.host.disk(dir)
	if err != nil {
		return check.Fail(err)
	}
	if overlay {
		return check.Fail(fmt.Errorf("%s is on an overlay file system, on which nodes cannot unpack images: mount a volume there", dir))
	}
	need := uint64(spareDisk + nodeDisk*len(d.cluster.Nodes))
	if exists(d.paths.cluster()) { // most of it is there already
		need = spareDisk
	}
	if free < need {
		return check.Fail(fmt.Errorf("%s needs about %s of disk, %s are free", dir, size(need), size(free)))
	}
	return check.OK("%s free for %s", size(free), dir)
}

func (d *Driver) checkPorts(running bool) check.Result {
	if running {
		return check.OK("the environment holds its ports already")
	}
	for _, p := range []struct {
		port  int
		field string
	}{{d.cluster.API, "ports.api"}, {d.cluster.Registry, "ports.registry"}} {
		if err := d.host.listen(p.port); err != nil {
			return check.Fail(
				fmt.Errorf("port %d of 127.0.0.1 is in use: end what holds it (ss -ltnp) or set %s in orrery.yaml: %w", p.port, p.field, err),
			)
		}
	}
	return check.OK("ports %d and %d are free", d.cluster.API, d.cluster.Registry)
}

// checkNetworks: a hermetic environment shares no address with the host, so an overlap
// only confuses people. With a way out it would send packets to the wrong place.
func (d *Driver) checkNetworks(context.Context) check.Result {
	routes, err := d.host.routes()
	if err != nil {
		return check.Skip("cannot list the host's routes: %v", err)
	}
	for _, r := range []struct {
		field string
		cidr  netip.Prefix
	}{{"network.nodes", d.cluster.Fabric}, {"network.pods", d.cluster.Pods}, {"network.services", d.cluster.Services}} {
		for _, h := range routes {
			switch {
			case !r.cidr.Overlaps(h):
			case d.cluster.Egress:
				return check.Fail(
					fmt.Errorf(
						"%s %s overlaps the host's route to %s, which pods with egress could then not reach: set another range in orrery.yaml",
						r.field,
						r.cidr,
						h,
					),
				)
			default:
				return check.Skip("%s %s overlaps the host's route to %s; harmless while egress is false", r.field, r.cidr, h)
			}
		}
	}
	return check.OK("the ranges overlap no route of the host")
}

func (d *Driver) checkQuorum(context.Context) check.Result {
	n := len(d.cluster.servers())
	switch {
	case n == 1:
		return check.Skip("one server: the control plane does not survive its loss; production has three")
	case n%2 == 0:
		return check.Skip("%d servers survive no more failures than %d: an odd number is better", n, n-1)
	}
	return check.OK("%d servers survive the loss of %d", n, (n-1)/2)
}
