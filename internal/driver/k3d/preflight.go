package k3d

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/semver"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/driver"
)

const getK3d = "get k3d 5.8 or newer from https://k3d.io/#installation, and put it in PATH"

// oldest k3d that takes the configuration and has fixed addresses of servers.
const oldest = "v5.8.0"

// What nodes take at least; the kubelet of an idle one is content with it.
const (
	serverMemory = 1 << 30
	agentMemory  = 512 << 20
	// Instances of inotify, measured on nodes of the native driver, which run the same.
	inotifyPerServer = 21
	inotifyPerAgent  = 10
)

// Preflight implements [driver.Driver].
func (d *Driver) Preflight(context.Context) []check.Condition {
	ask := func(name string, probe func(context.Context) check.Result) check.Condition {
		return check.Condition{Component: "host", Name: name, Probe: probe}
	}
	return []check.Condition{
		ask("k3d", d.checkK3d), ask("engine", d.checkEngine), ask("images", d.checkImages), ask("memory", d.checkMemory),
		ask("inotify", d.checkInotify), ask("name", d.checkName), ask("ports", d.checkPorts),
	}
}

var versionLine = regexp.MustCompile(`(?m)^k3d version (v\S+)`)

func (d *Driver) checkK3d(ctx context.Context) check.Result {
	out, err := d.k3dOutput(ctx, nil, "version")
	if err != nil {
		return check.Fail(err)
	}
	return judgeK3d(out)
}

func judgeK3d(said string) check.Result {
	v := versionLine.FindStringSubmatch(said)
	switch {
	case v == nil || !semver.IsValid(v[1]):
		return check.Skip("which k3d this is cannot be told; %s or newer is needed", oldest)
	case semver.Compare(v[1], oldest) < 0:
		return check.Fail(fmt.Errorf("k3d is %s, and %s or newer is needed: %s", v[1], oldest, getK3d))
	}
	return check.OK("k3d %s", v[1])
}

func (d *Driver) checkEngine(ctx context.Context) check.Result {
	i, err := d.engine.info(ctx)
	if err != nil {
		return check.Fail(err)
	}
	return judgeEngine(i, runtime.GOARCH)
}

// architectures as engines name them, and Go.
var architectures = map[string]string{"x86_64": "amd64", "aarch64": "arm64", "amd64": "amd64", "arm64": "arm64"}

func judgeEngine(i engineInfo, arch string) check.Result {
	if i.OSType != "linux" {
		return check.Fail(fmt.Errorf("the engine runs containers of %s; switch it to Linux containers", i.OSType))
	}
	if has := architectures[i.Architecture]; has != arch {
		return check.Fail(fmt.Errorf("the engine's machine is %s, and nodes are made for %s: take an orrery for %s", i.Architecture, arch, i.Architecture))
	}
	rootless := slices.ContainsFunc(i.SecurityOptions, func(o string) bool { return strings.Contains(o, "rootless") })
	if rootless && i.CgroupVersion != "2" {
		return check.Fail(errors.New("the engine is rootless and the machine has control groups v1: nodes cannot make theirs; boot with systemd.unified_cgroup_hierarchy=1, or take an engine that is not rootless"))
	}
	if rootless {
		return check.Skip("engine %s is rootless: nodes of Orrery were not tried there; it has to hand on cpu, memory and pids (https://rootlesscontaine.rs/getting-started/common/cgroup2/)", i.ServerVersion)
	}
	return check.OK("engine %s on %s, control groups v%s", i.ServerVersion, i.Architecture, i.CgroupVersion)
}

// kernelForBPF is what Cilium 1.19 asks for, from its system requirements.
var kernelForBPF = [2]int{5, 10}

// judgeKernel reads the beginning of a version, such as 6.1 of 6.1.0-18-amd64.
func judgeKernel(version string) error {
	var v [2]int
	if _, err := fmt.Sscanf(version, "%d.%d", &v[0], &v[1]); err != nil {
		return fmt.Errorf("the engine does not say which kernel it has: %q", version)
	}
	if slices.Compare(v[:], kernelForBPF[:]) < 0 {
		return fmt.Errorf("the engine's kernel, Linux %s, is too old for Cilium's BPF programs, which need %d.%d or later",
			version, kernelForBPF[0], kernelForBPF[1])
	}
	return nil
}

func (d *Driver) checkMemory(ctx context.Context) check.Result {
	i, err := d.engine.info(ctx)
	if err != nil {
		return check.Skip("the engine does not answer")
	}
	return judgeMemory(i.MemTotal, d.Spec.Servers, d.Spec.AgentCount())
}

func judgeMemory(has int64, servers, agents int) check.Result {
	need := int64(servers)*serverMemory + int64(agents)*agentMemory
	if has < need {
		return check.Fail(fmt.Errorf("the engine has %d MiB of memory, and %d servers and %d agents take %d MiB: give it more (Docker Desktop: Settings, Resources), or make fewer nodes",
			has>>20, servers, agents, need>>20))
	}
	return check.OK("the engine has %d MiB of memory, nodes take %d MiB before there is anything in them", has>>20, need>>20)
}

func (d *Driver) checkInotify(ctx context.Context) check.Result {
	b, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		return check.Skip("the engine is on another machine, whose limits are not seen from here")
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return check.Skip("fs.inotify.max_user_instances: %v", err)
	}
	if o, err := d.Observe(ctx); err == nil && o.Phase == driver.PhaseRunning {
		return check.OK("the nodes run")
	}
	return judgeInotify(n, inotifyInUse(), d.Spec.Servers, d.Spec.AgentCount())
}

// inotifyInUse counts instances of processes that can be seen: all of them for root.
func inotifyInUse() (n int) {
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0
	}
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && to == "anon_inode:inotify" {
			n++
		}
	}
	return n
}

func judgeInotify(limit, used, servers, agents int) check.Result {
	need := used + servers*inotifyPerServer + agents*inotifyPerAgent
	if limit < need {
		return check.Fail(fmt.Errorf("%d servers and %d agents need about %d inotify instances and %d are in use, but the limit is %d: 'sudo sysctl fs.inotify.max_user_instances=%d' on the engine's machine",
			servers, agents, need-used, used, limit, 2*need))
	}
	return check.OK("%d of %d inotify instances will be in use", need, limit)
}

func (d *Driver) checkName(ctx context.Context) check.Result {
	m, _, err := d.remembered()
	if err != nil {
		return check.Fail(err)
	}
	s, err := d.look(ctx, m.ID)
	if err != nil {
		return check.Skip("the engine does not answer")
	}
	if s.theirs {
		return check.Fail(d.notOurs())
	}
	return check.OK("k3d has no cluster %s of somebody else", clusterName(d.Spec.Name))
}

func (d *Driver) checkPorts(ctx context.Context) check.Result {
	if o, err := d.Observe(ctx); err == nil && (o.Phase == driver.PhaseRunning || o.Phase == driver.PhasePartial) {
		return check.OK("the environment has its ports")
	}
	for field, port := range map[string]int{"ports.api": d.Spec.Ports.API, "ports.registry": d.Spec.Ports.Registry} {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return check.Fail(fmt.Errorf("127.0.0.1:%d: %w; end what holds it or set another %s in orrery.yaml", port, err, field))
		}
		l.Close()
	}
	return check.OK("ports %d and %d of 127.0.0.1 are free", d.Spec.Ports.API, d.Spec.Ports.Registry)
}
