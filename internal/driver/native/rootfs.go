package native

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cniFolder is where containerd looks for the network plugin's configuration.
const cniFolder = "/etc/cni/net.d"

// hostTools are the only programs of the host that a node's services may run.
var hostTools = []string{"nft", "mount", "umount"}

// hostSysctls belong to the whole machine. The kubelet wants them to have these values
// and would set them; it sees files that say so instead.
var hostSysctls = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0",
	"kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// rootBuilder lays out a node's root file system under root and remembers the first error.
type rootBuilder struct {
	root string
	err  error
}

func (b *rootBuilder) in(p string) string { return filepath.Join(b.root, p) }

func (b *rootBuilder) do(what string, f func() error) {
	if b.err == nil {
		if err := f(); err != nil {
			b.err = fmt.Errorf("%s: %w", what, err)
		}
	}
}

// make is do with what can make p and the folders above it, and reaches nothing outside of the
// root: below /var there is what the node left there, links too, and this is still the host.
func (b *rootBuilder) make(what, p string, f func(root *os.Root, p string) error) {
	b.do(what, func() error {
		root, err := os.OpenRoot(b.root)
		if err != nil {
			return err
		}
		defer root.Close()
		rel := strings.TrimPrefix(filepath.Clean("/"+p), "/")
		if rel == "" {
			return nil
		}
		if err := root.MkdirAll(filepath.Dir(rel), 0o755); err != nil {
			return err
		}
		return f(root, rel)
	})
}

func (b *rootBuilder) dir(p string) {
	b.make("make "+p, p, func(root *os.Root, p string) error { return root.MkdirAll(p, 0o755) })
}

func (b *rootBuilder) file(p, content string) {
	b.make("write "+p, p, func(root *os.Root, p string) error { return root.WriteFile(p, []byte(content), 0o644) })
}

func (b *rootBuilder) link(target, p string) {
	b.make("link "+p, p, func(root *os.Root, p string) error {
		err := root.Symlink(target, p)
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	})
}

func (b *rootBuilder) mount(source, p, fstype string, flags uintptr, data string) {
	b.dir(p)
	b.do("mount "+fstype+" on "+p, func() error { return unix.Mount(source, b.in(p), fstype, flags, data) })
}

// bind shows a file or folder of the host at p.
func (b *rootBuilder) bind(source, p string, readOnly bool) {
	b.make("bind "+source+" to "+p, p, func(root *os.Root, p string) error {
		st, err := os.Stat(source)
		if err != nil {
			return err
		}
		if st.IsDir() {
			err = root.MkdirAll(p, 0o755)
		} else {
			var f *os.File
			if f, err = root.OpenFile(p, os.O_CREATE|os.O_RDONLY|unix.O_NONBLOCK, 0o644); err == nil {
				err = f.Close()
			}
		}
		if err != nil {
			return err
		}
		target := b.in(p)
		if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
		if readOnly {
			return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID, "")
		}
		return nil
	})
}

// wholeProc mounts /proc once more, with nothing over it. In a user namespace (pods with
// hostUsers: false) the kernel allows a mount of proc only where the mount namespace has one
// already that hides nothing, and /proc has files over some of its own, see mask.
func (b *rootBuilder) wholeProc() {
	b.mount("proc", "/run/orrery/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	b.do("close /run/orrery", func() error { return os.Chmod(b.in("/run/orrery"), 0o700) })
}

// mask shows content instead of a file of /proc.
func (b *rootBuilder) mask(p, content string) {
	if _, err := os.Stat(b.in(p)); err != nil {
		return // this kernel has no such file
	}
	source := "/run/orrery/" + strings.ReplaceAll(strings.TrimPrefix(p, "/"), "/", ".")
	b.file(source, content)
	b.do("mask "+p, func() error { return unix.Mount(b.in(source), b.in(p), "", unix.MS_BIND, "") })
}

// enterRoot builds the node's root file system and makes it the root of this mount
// namespace. Nothing of it is seen on the host.
func enterRoot(c initConfig, cg cgroups) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	b := &rootBuilder{root: filepath.Join(c.State, "root")}
	b.do("make root", func() error { return os.MkdirAll(b.root, 0o755) })
	b.mount("tmpfs", "/", "tmpfs", 0, "mode=755,size=64m")
	for _, d := range []string{"proc", "sys", "run", "tmp", "etc", "opt", "root", "mnt", "old"} {
		b.dir(d)
	}
	systemFolders(b)
	b.bind(filepath.Join(c.State, "var"), "/var", false)
	b.dir("/var/log")
	b.bind(filepath.Join(c.State, "log"), "/var/log/orrery", false)
	b.bind(c.Distribution, strings.TrimSuffix(nodeBin, "/"), true)
	b.bind(c.Layers, nodeLayers, true)
	for _, d := range []string{"kubernetes", "containerd", "cni"} {
		if at := filepath.Join(c.State, "etc", d); exists(at) {
			b.bind(at, "/etc/"+d, true)
		}
	}
	b.dir(cniFolder) // a plugin that has no files shows its own when it is ready
	b.mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	b.mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	b.appArmor(appArmorEnabled)
	b.mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
	b.wholeProc()
	b.bind(filepath.Join(c.State, "layers.sock"), nodeLayerSocket, false)
	b.mount("tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	b.link("/run", "/var/run")
	deviceFiles(b)
	mountCgroups(b, cg)
	for p, v := range hostSysctls {
		b.mask("/proc/sys/"+p, v+"\n")
	}
	if c.Datapath != nil {
		c.Datapath.lay(b)
	}
	if cpus, err := os.ReadFile("/proc/cpuinfo"); err == nil && withClock(string(cpus)) != string(cpus) {
		b.mask("/proc/cpuinfo", withClock(string(cpus)))
	}
	if c.Memory > 0 {
		b.mask("/proc/meminfo", meminfo(c.Memory))
	}
	// A restarted node is a rebooted machine.
	b.mask("/proc/sys/kernel/random/boot_id", newUUID()+"\n")
	etcFiles(b, c)
	b.dir("/run/tools")
	tools := slices.Concat(hostTools, []string{appArmorParser}) // which need not be there
	if c.Datapath != nil {
		tools = slices.Concat(tools, datapathTools)
	}
	for _, t := range tools {
		for _, d := range []string{"/usr/sbin/", "/usr/bin/"} {
			if exists(b.in(d + t)) {
				b.link(d+t, "/run/tools/"+t)
				break
			}
		}
	}
	if c.Datapath != nil {
		c.Datapath.tools(b)
	}
	if b.err != nil {
		return fmt.Errorf("root file system of %s: %w", c.Hostname, b.err)
	}
	if err := unix.PivotRoot(b.root, b.in("/old")); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the host's root: %w", err)
	}
	_ = os.Remove("/old")
	// Volumes with bidirectional mount propagation need a shared root.
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// systemFolders shows the host's /usr read-only: the tools above and their libraries.
func systemFolders(b *rootBuilder) {
	b.bind("/usr", "/usr", true)
	for _, d := range []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"} {
		st, err := os.Lstat("/" + d)
		switch {
		case err != nil:
		case st.Mode()&fs.ModeSymlink != 0:
			b.link("usr/"+d, d)
		default: // a host whose /usr is not merged
			b.bind("/"+d, "/"+d, true)
		}
	}
	for _, d := range []string{"/etc/ssl", "/etc/alternatives", "/etc/ld.so.cache"} {
		if exists(d) {
			b.bind(d, d, true)
		}
	}
}

func deviceFiles(b *rootBuilder) {
	b.mount("tmpfs", "/dev", "tmpfs", unix.MS_NOSUID, "mode=755,size=64k")
	for _, d := range []string{"null", "zero", "full", "random", "urandom", "tty", "kmsg", "fuse"} {
		if exists("/dev/" + d) {
			b.bind("/dev/"+d, "/dev/"+d, false)
		}
	}
	b.mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
	b.link("pts/ptmx", "/dev/ptmx")
	b.mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=64m")
	b.mount("mqueue", "/dev/mqueue", "mqueue", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	for name, target := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		b.link("/proc/self/fd"+target, "/dev/"+name)
	}
}

// mountCgroups mounts the hierarchies of the host as the new cgroup namespace shows them:
// their root is the node's group.
func mountCgroups(b *rootBuilder, cg cgroups) {
	const at = "/sys/fs/cgroup"
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if cg.v2() {
		b.mount("cgroup2", at, "cgroup2", flags, "")
		return
	}
	b.mount("tmpfs", at, "tmpfs", flags, "mode=755")
	for _, h := range cg.V1 {
		name := filepath.Base(h.Mount)
		b.mount("cgroup", at+"/"+name, "cgroup", flags, h.Options)
		for _, ctrl := range strings.Split(h.Options, ",") {
			if ctrl != name && ctrl != "none" && !strings.HasPrefix(ctrl, "name=") {
				b.link(name, at+"/"+ctrl)
			}
		}
	}
}

func etcFiles(b *rootBuilder, c initConfig) {
	for name, content := range map[string]string{
		"hostname":      c.Hostname + "\n",
		"hosts":         "127.0.0.1 localhost\n::1 localhost\n" + c.Address + " " + c.Hostname + "\n",
		"resolv.conf":   c.Resolv,
		"machine-id":    c.MachineID + "\n",
		"passwd":        "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n",
		"group":         "root:x:0:\nnogroup:x:65534:\n",
		"nsswitch.conf": "hosts: files dns\n",
		"os-release":    "NAME=Orrery\nID=orrery\nPRETTY_NAME=\"Orrery node\"\n",
		"protocols":     "tcp 6 TCP\nudp 17 UDP\n",
	} {
		b.file("/etc/"+name, content)
	}
}

var clock = regexp.MustCompile(`(?m)^(cpu MHz|clock)\s*:\s*[0-9]+\.[0-9]+`)

// withClock is /proc/cpuinfo in which an x86 processor tells its clock speed, as most do: the kubelet
// does not start on one that does not (User-mode Linux). It only shows the number.
func withClock(cpuinfo string) string {
	if runtime.GOARCH != "amd64" || clock.MatchString(cpuinfo) {
		return cpuinfo
	}
	return cpuinfo + "cpu MHz\t\t: 1000.000\n"
}

// meminfo is /proc/meminfo of a machine with that much memory, as far as the kubelet reads it.
func meminfo(bytes int64) string {
	kb := bytes / 1024
	return fmt.Sprintf(
		"MemTotal:       %d kB\nMemFree:        %d kB\nMemAvailable:   %d kB\nBuffers:        0 kB\nCached:         0 kB\nSwapTotal:      0 kB\nSwapFree:       0 kB\n",
		kb,
		kb,
		kb,
	)
}
