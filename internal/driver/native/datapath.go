package native

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/hosttraffic"
)

// datapath is what compiling, loading and keeping BPF programs needs of a node: folders of
// the host.
type datapath struct {
	Sources string `json:"sources"`
	LLVM    string `json:"llvm"`
	// Objects are shared by the nodes of all environments: what one compiled, others have.
	// It need not exist.
	Objects string `json:"objects,omitempty"`
}

// datapathTools of the host are run by the agent, beside hostTools.
var datapathTools = []string{"ip"}

// datapathSysctls belong to the whole machine too, and the agent would set them.
var datapathSysctls = map[string]string{
	"kernel/unprivileged_bpf_disabled": "1",
	"kernel/timer_migration":           "0",
}

// lay shows a node its programs and gives it file systems of its own for BPF objects and for
// its subtree of the unified control groups, to which the socket load balancer is attached.
// They end with the mount namespace, and everything that is pinned with them.
func (d *datapath) lay(b *rootBuilder) {
	b.mount("bpf", bpfFolder, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700")
	b.mount("cgroup2", ciliumCgroup, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	b.dir("/run/netns")
	b.dir(ciliumRun + "/cni")
	b.link("/run/netns", ciliumRun+"/netns")
	b.bind(d.LLVM, llvmFolder, true)
	if exists(d.Objects) {
		b.bind(d.Objects, objectCache, false)
	}
	// The agent writes what it found out about the kernel beside the sources.
	b.mount("tmpfs", ciliumLib, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=16m")
	b.do("copy the sources of BPF programs", func() error {
		from, err := filepath.EvalSymlinks(d.Sources)
		if err != nil {
			return err
		}
		return os.CopyFS(b.in(ciliumLib+"/bpf"), os.DirFS(from))
	})
	for p, v := range datapathSysctls {
		b.mask("/proc/sys/"+p, v+"\n")
	}
}

// cniConfig is how containerd learns of the plugin.
const cniConfig = "05-cilium.conflist"

// announce makes the node Ready: it shows containerd the plugin's configuration, without which
// the kubelet calls the node not Ready, as soon as the agent has loaded the node's programs. The
// agent would do so as soon as it has begun, also when it then finds no compiler. What is shown
// stays: pods outlive the agent.
func (d *datapath) announce(ctx context.Context) {
	_ = check.Until(ctx, check.Pause{First: 100 * time.Millisecond}, func() error {
		if err := agentStatus(ctx, ciliumRun+"/cilium.sock"); err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(ciliumRun, "cni", cniConfig))
		if err != nil {
			return err
		}
		_, err = writeFile(filepath.Join(cniFolder, cniConfig), b)
		return err
	})
}

// tools of the agent that the host need not have. It insists on iptables when it has a proxy,
// even one that gets its packets from BPF (enable-bpf-tproxy). Of all its rules only those of package hosttraffic
// are of use then, and they are there already; this one takes them and does nothing.
func (d *datapath) tools(b *rootBuilder) {
	const iptables = "/run/tools/iptables"
	b.file(iptables, "#!/bin/sh\nexit 0\n")
	b.do("chmod "+iptables, func() error { return os.Chmod(b.in(iptables), 0o755) })
}

// start runs when the node has its root and its network.
func (d *datapath) start() error {
	cmd := exec.Command("/run/tools/nft", "-f", "-")
	cmd.Stdin = strings.NewReader(hosttraffic.Rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mark the node's own packets with nft: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
