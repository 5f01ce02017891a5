package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// yaml is the smallest platform that keeps data.
const yaml = `apiVersion: orrery.dev/v1alpha1
kind: Environment
name: vm
servers: 1
agents: 0
network: {plugin: ptp}
components: [namespaces, coredns, local-path, nats]
`

// packages beside Debian's smallest: a kernel, an init, a bus for it, and what Orrery asks for.
const packages = "linux-image-cloud-amd64,initramfs-tools,apparmor,systemd,systemd-sysv,dbus,kmod,mount,nftables,iproute2,procps"

// files of the machine. A shell on its serial line takes commands; through cat, or it would prompt.
var files = map[string]string{
	"etc/hostname":        "vm\n",
	"etc/hosts":           "127.0.0.1 localhost vm\n",
	"etc/fstab":           "/dev/vda / ext4 rw 0 0\n",
	"opt/orrery/yaml":     yaml,
	"etc/machine-id":      "0123456789abcdef0123456789abcdef\n",
	"opt/orrery/greeting": "stty -echo -onlcr\necho commands please\ncat | /bin/bash\n",
	"opt/orrery/look.sh":  look,
	"etc/systemd/system/commands.service": `[Unit]
Description=Commands of the test
After=multi-user.target

[Service]
ExecStart=/bin/bash /opt/orrery/greeting
Environment=HOME=/root PATH=/opt/orrery:/usr/sbin:/usr/bin
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
KillMode=process

[Install]
WantedBy=multi-user.target
`,
}

// links of the machine: commands are taken, and nothing else happens by itself.
var links = map[string]string{
	"etc/systemd/system/multi-user.target.wants/commands.service": "/etc/systemd/system/commands.service",
	"etc/systemd/system/getty.target":                             "/dev/null",
	"etc/systemd/system/console-getty.service":                    "/dev/null",
	"etc/systemd/system/apt-daily.timer":                          "/dev/null",
	"etc/systemd/system/apt-daily-upgrade.timer":                  "/dev/null",
	"etc/systemd/system/dpkg-db-backup.timer":                     "/dev/null",
	"etc/systemd/system/e2scrub_all.timer":                        "/dev/null",
	"etc/systemd/system/fstrim.timer":                             "/dev/null",
	"etc/systemd/system/systemd-tmpfiles-clean.timer":             "/dev/null",
}

// newMachine makes one with a bundle on its disk. It is off.
func newMachine(t *testing.T) *machine {
	t.Helper()
	keep := os.Getenv("ORRERY_VM_DIR")
	if keep == "" {
		keep = "/var/tmp/orrery-vm"
	}
	if err := os.MkdirAll(keep, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(keep, "machine-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			_ = os.RemoveAll(dir)
		}
	})
	debian, root := debianRoot(t, keep), filepath.Join(dir, "root")
	m := &machine{dir: dir, kernel: only(t, debian, "boot/vmlinuz-*"), initrd: only(t, debian, "boot/initrd.img-*")}
	command(t, "", "cp", "-a", debian, root)
	for name, content := range files {
		at := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range links {
		at := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.Symlink(target, at)); err != nil {
			t.Fatal(err)
		}
	}
	install(t, filepath.Join(root, "opt/orrery"))
	// No mount is needed to fill it.
	command(t, "", "mkfs.ext4", "-q", "-F", "-E", "nodiscard", "-d", root, m.disk(), diskSize)
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	return m
}

// only is the one file that pattern has below root.
func only(t *testing.T, root, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s below %s: %q, %v; want one", pattern, root, found, err)
	}
	return found[0]
}

// debianRoot is made once and kept.
func debianRoot(t *testing.T, keep string) string {
	t.Helper()
	root := filepath.Join(keep, "debian")
	if _, err := os.Stat(root); err == nil {
		return root
	}
	mirror := os.Getenv("ORRERY_VM_MIRROR")
	if mirror == "" {
		mirror = "http://deb.debian.org/debian"
	}
	half := root + ".new"
	if err := os.RemoveAll(half); err != nil {
		t.Fatal(err)
	}
	command(t, "", "debootstrap", "--variant=minbase", "--include="+packages, "bookworm", half, mirror)
	if err := os.Rename(half, root); err != nil {
		t.Fatal(err)
	}
	return root
}

// install puts orrery, the witness and a bundle into dir.
func install(t *testing.T, dir string) {
	t.Helper()
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	cli := filepath.Join(dir, "orrery")
	t.Setenv("CGO_ENABLED", "0")
	command(t, repo, "go", "build", "-buildvcs=false", "-o", cli, "./cmd/orrery")
	command(t, repo, "go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "witness"), "./test/vm/witness")
	t.Setenv("ORRERY_STATE_DIR", t.TempDir())
	t.Setenv("ORRERY_KEY_PASSWORD", "of this test") // or the kernel's keyring would keep one
	command(t, repo, cli, "bundle", "create", filepath.Join(dir, "vm.orrery"), "-f", filepath.Join(dir, "yaml"), "--plain")
}

// command runs a program of this machine, which ends the test when it fails.
func command(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), buildTime)
	defer cancel()
	began := time.Now()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, tail(string(out), 3000))
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Logf("%s: %.0f s", filepath.Base(name), took.Seconds())
	}
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return fmt.Sprintf("… %s", s[len(s)-n:])
}
