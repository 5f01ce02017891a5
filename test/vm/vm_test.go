package vm

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	memoryMiB = 3072
	diskSize  = "6G" // a hole, mostly

	buildTime = 40 * time.Minute // of one program on the machine around it
	bootTime  = 10 * time.Minute
	offTime   = 10 * time.Minute
	quick     = 10 * time.Minute // what takes a moment in there
	slow      = time.Hour        // what a platform has to start for
)

// look prints what must be the same again, a line each. Modules of nf_tables stay, see ADR 0035.
const look = `export LC_ALL=C
cut -d' ' -f1 /proc/modules | grep -vE '^(nf|libcrc32c)' | sort | sed 's/^/module /'
tr ' ' '\n' </sys/fs/cgroup/cgroup.subtree_control | sort | sed 's/^/controller /'
findmnt -rno TARGET,FSTYPE | sort | sed 's/^/mount /'
ip -o link | cut -d: -f2 | cut -d@ -f1 | sort | sed 's/^/link/'
find /sys/fs/cgroup -type d | sort | sed 's/^/cgroup /'
ps -eo ppid,comm | awk '$1 != 2 && $2 != "ps" && $2 != "awk" && $2 != "bash" && $2 != "sort" && $2 != "sed" { print "process " $2 }' | sort
ls /run /var/lib/orrery 2>/dev/null | sed 's/^/file /'
sysctl -n net.ipv4.ip_forward | sed 's/^/ip_forward /'
systemctl list-units --all --plain --no-legend 'orrery*' | cut -d' ' -f1 | sed 's/^/unit /'
`

// needed skips a test where it cannot run.
func needed(t *testing.T) {
	t.Helper()
	switch {
	case os.Getenv("ORRERY_VM") != "1":
		t.Skip("a virtual machine takes an hour: ORRERY_VM=1 runs it")
	case os.Geteuid() != 0:
		t.Skip("making a root file system of Debian needs root")
	}
	for program, pkg := range map[string]string{"debootstrap": "debootstrap", "qemu-system-x86_64": "qemu-system-x86", "mkfs.ext4": "e2fsprogs"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not there: apt-get install %s", program, pkg)
		}
	}
}

const up = "orrery up --bundle /opt/orrery/vm.orrery --key /opt/orrery/vm.orrery.pub -f /opt/orrery/yaml --timeout 10m --plain"

// TestInterrupted is the short one: nodes that have just begun to run are gone without a trace when
// their up is interrupted, and systemd knew of them meanwhile.
func TestInterrupted(t *testing.T) {
	needed(t)
	m := newMachine(t)
	m.on(t)
	m.run(t, slow, "orrery bundle import /opt/orrery/vm.orrery --key /opt/orrery/vm.orrery.pub --plain")
	before := m.look(t)
	m.untilKubelet(t, up)
	m.inScope(t)
	during := m.look(t)
	m.interrupt(t)
	after := m.look(t)
	t.Logf("there meanwhile: %s", strings.Join(without(during, before), ", "))
	same(t, before, after)
	m.off(t)
}

// TestPowerCutOfNodes is short too: what the power cut left of a half-made environment starts and
// is removed.
func TestPowerCutOfNodes(t *testing.T) {
	needed(t)
	m := newMachine(t)
	m.on(t)
	m.untilKubelet(t, up)
	m.cutPower(t)
	m.on(t)
	before := m.look(t)
	m.untilKubelet(t, "orrery start --env vm --plain")
	m.inScope(t)
	m.interrupt(t)
	m.run(t, slow, "orrery down --env vm --plain")
	after := m.look(t)
	if !slices.Contains(before, "file vm") || slices.Contains(after, "file vm") {
		t.Errorf("the state folder before and after down: %q, %q", before, after)
	}
	same(t, without(before, []string{"file vm"}), after)
	m.off(t)
}

// untilKubelet begins with a verb and returns when it has come so far that the kubelet runs.
func (m *machine) untilKubelet(t *testing.T, verb string) {
	t.Helper()
	m.tell(t, verb+" >/tmp/verb 2>&1 & echo $! >/tmp/pid")
	m.run(t, slow, "until pgrep -x kubelet >/dev/null; do kill -0 $(cat /tmp/pid) || { cat /tmp/verb; exit 1; }; sleep 1; done")
}

// interrupt is Ctrl-C to that verb.
func (m *machine) interrupt(t *testing.T) {
	t.Helper()
	m.run(t, slow, "kill -INT $(cat /tmp/pid); while kill -0 $(cat /tmp/pid) 2>/dev/null; do sleep 1; done; rm /tmp/pid; cat /tmp/verb")
}

// TestMachine is the life of a platform on a machine of its own.
func TestMachine(t *testing.T) {
	needed(t)
	m := newMachine(t)
	m.on(t)
	if got := m.run(t, quick, "stat -fc %T /sys/fs/cgroup; cat /proc/1/comm"); got != "cgroup2fs\nsystemd" {
		t.Fatalf("this is no machine with systemd and control groups v2: %s", got)
	}
	m.run(t, slow, up)
	m.run(t, quick, "orrery status --env vm | grep -E '^server1 .* ready '")
	m.inScope(t)
	m.run(t, quick, "grep -H 'cri-containerd.*(enforce)' /proc/$(pgrep -xo nats-server)/attr/current")
	acknowledged := m.publish(t, 200)
	m.off(t)

	m.on(t)
	m.start(t)
	m.run(t, slow, fmt.Sprintf("witness check /var/lib/orrery/vm/kubeconfig %d", acknowledged))
	acknowledged = m.publish(t, 200)
	m.cutPower(t)

	m.on(t)
	before := m.look(t)
	m.start(t)
	m.run(t, slow, fmt.Sprintf("witness check /var/lib/orrery/vm/kubeconfig %d", acknowledged))
	m.run(t, slow, "orrery verify --env vm --plain")
	m.run(t, slow, "orrery down --env vm --plain")
	same(t, without(before, []string{"file vm"}), m.look(t))
	m.off(t)
}

// without lists what of a is not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(l string) bool { return slices.Contains(b, l) })
}

func same(t *testing.T, before, after []string) {
	t.Helper()
	for _, l := range without(after, before) {
		t.Errorf("left: %s", l)
	}
	for _, l := range without(before, after) {
		t.Errorf("taken away: %s", l)
	}
}

// start brings the platform back after a boot, as its owner has to.
func (m *machine) start(t *testing.T) {
	t.Helper()
	m.run(t, slow, "orrery start --env vm --timeout 10m --plain")
}

func (m *machine) look(t *testing.T) []string {
	t.Helper()
	return strings.Split(m.run(t, quick, "bash /opt/orrery/look.sh"), "\n")
}

// publish writes to the stream of the witness and leaves it writing; it returns the last number
// that is known here to be acknowledged after at least n were.
func (m *machine) publish(t *testing.T, n int) int {
	t.Helper()
	m.tell(t, "{ witness publish /var/lib/orrery/vm/kubeconfig; echo acknowledged no more; } 2>&1 &")
	last := 0
	for range n {
		lines, err := m.boot.until(t, slow, "acknowledged ")
		if err != nil {
			t.Fatalf("no more is acknowledged after %d: %v\n%s", last, err, strings.Join(lines, "\n"))
		}
		if last, err = strconv.Atoi(strings.TrimPrefix(lines[len(lines)-1], "acknowledged ")); err != nil {
			t.Fatalf("the witness ended: %s", strings.Join(lines, "\n"))
		}
	}
	t.Logf("%d messages are acknowledged", last)
	return last
}

// inScope: systemd knows the environment, has given it all that it has, and does not take it back
// when it looks at its units again.
func (m *machine) inScope(t *testing.T) {
	t.Helper()
	if got := m.run(t, quick, "systemctl show -p Delegate,ActiveState orrery-vm.scope"); !strings.Contains(got, "Delegate=yes") || !strings.Contains(got, "ActiveState=active") {
		t.Errorf("the scope: %s", got)
	}
	m.run(t, quick, "systemctl daemon-reload")
	if got := m.run(t, quick, "cat /sys/fs/cgroup/system.slice/orrery-vm.scope/server1/cgroup.controllers"); !strings.Contains(got, "memory") || !strings.Contains(got, "pids") {
		t.Errorf("controllers of the node after systemd looked at its units again: %q", got)
	}
}
